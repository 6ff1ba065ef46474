// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

type webProtocol struct {
	cert    func(pod string) (tls.Certificate, error) // nil: no TLS
	handler func(*server) http.Handler
}

var webProtocols = map[string]webProtocol{
	"http":    {handler: (*server).tells},
	"tls":     {handler: (*server).tells, cert: selfSigned},
	"webhook": {handler: (*server).denies, cert: mounted},
	"grpc":    {handler: func(*server) http.Handler { return http.HandlerFunc(health) }},
}

func (s *server) web(p webProtocol, l net.Listener) error {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Server{Handler: p.handler(s), Protocols: protocols}
	s.stops = append(s.stops, func(ctx context.Context) { _ = h.Shutdown(ctx) })
	if p.cert == nil {
		go h.Serve(l)
		return nil
	}
	cert, err := p.cert(s.pod)
	if err != nil {
		return err
	}
	h.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	go h.ServeTLS(l, "", "")
	return nil
}

// tells says everything about the request.
func (s *server) tells() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := r.FormValue("host"); host != "" && host != r.Host {
			w.WriteHeader(http.StatusMisdirectedRequest)
			return
		}
		if d, err := time.ParseDuration(r.FormValue("sleep")); err == nil {
			time.Sleep(d)
		}
		if n, err := strconv.Atoi(r.FormValue("bytes")); err == nil {
			_, _ = io.CopyN(w, zeros{}, int64(n))
			return
		}
		if status, err := strconv.Atoi(r.FormValue("status")); err == nil {
			w.WriteHeader(status)
		}
		_ = json.NewEncoder(w).Encode(answer.HTTP{Pod: s.pod, Peer: r.RemoteAddr, Protocol: r.Proto, Method: r.Method,
			Host: r.Host, Path: r.URL.Path, Header: r.Header})
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// health answers grpc.health.v1.Health/Check: a message of one field, status 1, in a frame without compression.
func health(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	if r.URL.Path != "/grpc.health.v1.Health/Check" {
		w.Header().Set("Grpc-Status", "12") // unimplemented
		return
	}
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 0x08, 1})
	w.Header().Set("Grpc-Status", "0")
}

func selfSigned(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// client is an HTTP client that opens a connection for each request, or keeps them.
func client(f flags, keep bool) *http.Client {
	t := &http.Transport{DisableKeepAlives: !keep, TLSClientConfig: &tls.Config{InsecureSkipVerify: f.insecure}}
	t.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		return f.dialer().DialContext(ctx, f.network, address)
	}
	if f.h2c {
		t.Protocols = &http.Protocols{}
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: t, Timeout: f.timeout}
}

func get(args []string, out io.Writer) error {
	f, rest, err := parse("get", args, 1, 1)
	if err != nil {
		return err
	}
	r, err := client(f, false).Get(rest[0])
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(r.Body, 1000))
		return &statusError{r.Status, string(bytes.TrimSpace(b))}
	}
	_, err = io.Copy(out, r.Body)
	return err
}

type statusError struct{ status, body string }

func (e *statusError) Error() string { return "status " + e.status + ": " + e.body }
