// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// zipkin is a server that takes Zipkin's v2 JSON.
type zipkin struct {
	url    string
	client *http.Client
}

func newZipkin(url string, dial func(ctx context.Context, hostPort string) (net.Conn, error)) *zipkin {
	return &zipkin{url, &http.Client{
		Transport: &http.Transport{
			DialContext:     func(ctx context.Context, _, hostPort string) (net.Conn, error) { return dial(ctx, hostPort) },
			MaxConnsPerHost: 1, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: answerTime,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (z *zipkin) close() { z.client.CloseIdleConnections() }

func (z *zipkin) send(ctx context.Context, spans []*Span) (refused int, err error) {
	body, err := json.Marshal(encodeZipkin(spans))
	if err != nil {
		return 0, &permanentError{err}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, z.url, bytes.NewReader(body))
	if err != nil {
		return 0, &permanentError{err}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "warren-ztunnel")
	answer, err := z.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 512))
	switch code := answer.StatusCode; {
	case code/100 == 2:
		return 0, nil
	case code/100 == 5, code == http.StatusRequestTimeout, code == http.StatusTooManyRequests:
		return 0, fmt.Errorf("%s: %q", answer.Status, said)
	default:
		return 0, &permanentError{fmt.Errorf("%s: %q", answer.Status, said)}
	}
}

type zipkinSpan struct {
	TraceID   string            `json:"traceId"`
	ID        string            `json:"id"`
	ParentID  string            `json:"parentId,omitempty"`
	Kind      string            `json:"kind"`
	Name      string            `json:"name"`
	Timestamp int64             `json:"timestamp"` // microseconds
	Duration  int64             `json:"duration"`  // microseconds, at least 1
	Local     *zipkinEndpoint   `json:"localEndpoint"`
	Remote    *zipkinEndpoint   `json:"remoteEndpoint,omitempty"`
	Tags      map[string]string `json:"tags"`
}

type zipkinEndpoint struct {
	ServiceName string `json:"serviceName,omitempty"`
	IPv4        string `json:"ipv4,omitempty"`
	IPv6        string `json:"ipv6,omitempty"`
	Port        uint16 `json:"port,omitempty"`
}

func encodeZipkin(spans []*Span) []zipkinSpan {
	out := make([]zipkinSpan, 0, len(spans))
	for _, s := range spans {
		z := zipkinSpan{
			TraceID: s.Context.TraceID(), ID: hex.EncodeToString(s.Context.Span[:]), Name: s.Name(),
			Timestamp: s.Start.UnixMicro(), Duration: max(s.End.Sub(s.Start).Microseconds(), 1), Tags: map[string]string{},
		}
		if s.Parent != ([8]byte{}) {
			z.ParentID = hex.EncodeToString(s.Parent[:])
		}
		local, remote := s.Source, s.Destination
		if z.Kind = "CLIENT"; s.Kind == Server {
			z.Kind, local, remote = "SERVER", remote, local
		}
		z.Local, z.Remote = zipkinEnd(&s.Local, local), zipkinEnd(&s.Remote, remote)
		s.attributes(func(key string, v any) {
			switch v := v.(type) {
			case string:
				z.Tags[key] = v
			case int64:
				z.Tags[key] = strconv.FormatInt(v, 10)
			}
		})
		if s.Err != nil {
			z.Tags["error"] = s.Err.Error()
		}
		out = append(out, z)
	}
	return out
}

// zipkinEnd names a workload's service and namespace, for Zipkin has no place for the second.
func zipkinEnd(p *Peer, a netip.AddrPort) *zipkinEndpoint {
	e := &zipkinEndpoint{Port: a.Port()}
	if p.Service != "" {
		e.ServiceName = strings.ToLower(p.Service + "." + p.Namespace)
	}
	switch addr := a.Addr().Unmap(); {
	case addr.Is4():
		e.IPv4 = addr.String()
	case addr.IsValid():
		e.IPv6 = addr.String()
	}
	return e
}
