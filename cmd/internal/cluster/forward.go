// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// forwards are the connections to pods, one each, over which all requests to its ports go. Nothing is listened on: no
// other user of this machine, and no page in a browser, gets at what is forwarded.
type forwards struct {
	mu    sync.Mutex
	byPod map[string]*forward
}

// forward is the connection to one pod.
type forward struct {
	mu   sync.Mutex
	conn httpstream.Connection
	last int // number of the last request
}

func (f *forwards) to(pod string) *forward {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byPod == nil {
		f.byPod = map[string]*forward{}
	}
	if f.byPod[pod] == nil {
		f.byPod[pod] = &forward{}
	}
	return f.byPod[pod]
}

func (f *forwards) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.byPod {
		p.mu.Lock()
		if p.conn != nil {
			_ = p.conn.Close()
		}
		p.mu.Unlock()
	}
	f.byPod = nil
}

// Page is a client whose every request goes to one port of a pod of Warren's, at localhost there.
func (c *Cluster) Page(pod string, port int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			type dialled struct {
				conn net.Conn
				err  error
			}
			done := make(chan dialled, 1)
			go func() { // the library knows no context
				conn, err := c.dial(pod, port)
				done <- dialled{conn, err}
			}()
			select {
			case d := <-done:
				return d.conn, d.err
			case <-ctx.Done():
				go func() {
					if d := <-done; d.conn != nil {
						_ = d.conn.Close()
					}
				}()
				return nil, ctx.Err()
			}
		},
	}}
}

func (c *Cluster) dial(pod string, port int) (net.Conn, error) {
	f := c.forwards.to(pod)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn != nil {
		select {
		case <-f.conn.CloseChan():
			f.conn = nil
		default:
		}
	}
	if f.conn == nil {
		conn, err := c.connect(pod)
		if err != nil {
			return nil, fmt.Errorf("forward to pod %s/%s: %w", c.system, pod, err)
		}
		f.conn = conn
	}
	f.last++
	s, err := open(f.conn, f.last, port)
	if err != nil {
		return nil, fmt.Errorf("forward to pod %s/%s, port %d: %w", c.system, pod, port, err)
	}
	return s, nil
}

// connect prefers a websocket, which gets through proxies, to the SPDY of older servers.
func (c *Cluster) connect(pod string) (httpstream.Connection, error) {
	base, _, err := rest.DefaultServerUrlFor(c.rest)
	if err != nil {
		return nil, err
	}
	u := base.JoinPath("api/v1/namespaces", url.PathEscape(c.system), "pods", url.PathEscape(pod), "portforward")
	transport, upgrader, err := spdy.RoundTripperFor(c.rest)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, c.rest)
	if err != nil {
		return nil, err
	}
	conn, protocol, err := portforward.NewFallbackDialerForStreaming(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}).Dial(portforward.PortForwardProtocolV1Name)
	if err == nil && protocol != portforward.PortForwardProtocolV1Name {
		_ = conn.Close()
		err = fmt.Errorf("the server speaks %q", protocol)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// open makes the two streams of one request: data both ways, and the other side's complaint.
func open(conn httpstream.Connection, number, port int) (*stream, error) {
	h := http.Header{}
	h.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(number))
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	complaints, err := conn.CreateStream(h)
	if err != nil {
		return nil, err
	}
	_ = complaints.Close() // nothing is written there
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(h)
	if err != nil {
		conn.RemoveStreams(complaints)
		return nil, err
	}
	return newStream(conn, data, complaints), nil
}
