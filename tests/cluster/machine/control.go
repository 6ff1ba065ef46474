// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// order is one request to pid 1: one connection, one JSON value each way.
type order struct {
	Do      string         `json:"do"` // start, stop, signal, status
	Service Service        `json:"service"`
	Signal  syscall.Signal `json:"signal"`
	Grace   time.Duration  `json:"grace"`
}

type reply struct {
	Error    string   `json:"error,omitempty"`
	Services []Status `json:"services,omitempty"`
}

// serve takes orders until the listener fails.
func (v *supervisor) serve() error {
	_ = os.Remove(v.spec.socket())
	l, err := net.Listen("unix", v.spec.socket())
	if err != nil {
		return fmt.Errorf("listen for orders: %w", err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("listen for orders: %w", err)
		}
		go func() {
			defer c.Close()
			var o order
			var r reply
			err := json.NewDecoder(c).Decode(&o)
			if err == nil {
				r.Services, err = v.obey(o)
			}
			if err != nil {
				r.Error = err.Error()
			}
			_ = json.NewEncoder(c).Encode(r)
		}()
	}
}

func (v *supervisor) obey(o order) ([]Status, error) {
	switch o.Do {
	case "start":
		return nil, v.start(o.Service)
	case "stop":
		return nil, v.stop(o.Service.Name, o.Grace)
	case "signal":
		return nil, v.signal(o.Service.Name, o.Signal)
	case "status":
		return v.status(), nil
	}
	return nil, fmt.Errorf("order %q is unknown", o.Do)
}

// send gives one order to the machine's pid 1.
func (s Spec) send(ctx context.Context, o order) ([]Status, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", s.socket())
	if err != nil {
		return nil, fmt.Errorf("reach machine %s: %w", s.Name, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(c).Encode(o); err != nil {
		return nil, fmt.Errorf("order machine %s: %w", s.Name, err)
	}
	var r reply
	if err := json.NewDecoder(c).Decode(&r); err != nil {
		return nil, fmt.Errorf("order machine %s to %s %s: %w", s.Name, o.Do, o.Service.Name, errors.Join(err, ctx.Err()))
	}
	if r.Error != "" {
		return nil, fmt.Errorf("machine %s: %s", s.Name, r.Error)
	}
	return r.Services, nil
}

// forward hands each connection of l, a listener of the network namespace it was made in, to target in this one.
func forward(l net.Listener, target string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			t, err := net.DialTimeout("tcp", target, 5*time.Second)
			if err != nil {
				return
			}
			defer t.Close()
			go func() {
				_, _ = io.Copy(t, c)
				_ = t.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(c, t)
		}()
	}
}
