// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/client-go/tools/portforward"
)

// Fetch gets a page that something in a pod serves on the pod's localhost, as `kubectl port-forward` would: by the API
// server and the kubelet. The URL is as the pod would write it. Any status but 200 is an error.
func (c *API) Fetch(ctx context.Context, namespace, pod, page string) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("fetch %s of %s/%s: %w", page, namespace, pod, err)
	}
	u, err := url.Parse(page)
	if err != nil {
		return fail(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return fail(errors.New("the URL names no port"))
	}
	local, stop, err := c.forward(namespace, pod, uint16(port))
	if err != nil {
		return fail(err)
	}
	defer stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", local)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return fail(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	if err != nil {
		return fail(err)
	}
	return string(b), nil
}

// forward lets an address of this machine's loopback lead to a port of a pod, until stop.
func (c *API) forward(namespace, pod string, port uint16) (local string, stop func(), err error) {
	to := c.client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialer(to, c.config)
	if err != nil {
		return "", nil, err
	}
	end, ready, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, end, ready, io.Discard, io.Discard)
	if err != nil {
		return "", nil, err
	}
	go func() { failed <- f.ForwardPorts() }()
	select {
	case err := <-failed:
		return "", nil, err
	case <-ready:
	}
	ports, err := f.GetPorts()
	if err != nil {
		close(end)
		return "", nil, err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))), func() { close(end) }, nil
}
