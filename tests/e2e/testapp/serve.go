// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is all that one process serves.
type server struct {
	pod   string
	heard *ledger
	stops []func(context.Context)
}

func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	drain := fs.Duration("drain", 0, "go on for this long after SIGTERM")
	if err := fs.Parse(args); err != nil {
		return err
	}
	pod, err := os.Hostname()
	if err != nil {
		return err
	}
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := &server{pod: pod, heard: &ledger{}}
	if err := s.heard.serve(); err != nil {
		return err
	}
	for _, a := range fs.Args() {
		protocol, address, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("%s: want PROTOCOL=ADDRESS", a)
		}
		if err := s.listen(protocol, address); err != nil {
			return err
		}
	}
	fmt.Println("serving as", pod)
	<-stopping.Done()
	time.Sleep(*drain)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range s.stops {
		wg.Go(func() { f(ctx) })
	}
	wg.Wait()
	return nil
}

// listen serves one protocol in the background.
func (s *server) listen(protocol, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if web, ok := webProtocols[protocol]; ok {
		return s.web(web, l)
	}
	raw, ok := rawProtocols[protocol]
	if !ok {
		return fmt.Errorf("%s: unknown protocol", protocol)
	}
	s.stops = append(s.stops, func(context.Context) { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "accept:", err)
				continue
			}
			go s.converse(protocol, c.(*net.TCPConn), raw)
		}
	}()
	return nil
}

// converse has one conversation and keeps in mind how it went.
func (s *server) converse(protocol string, c *net.TCPConn, raw rawProtocol) {
	defer c.Close()
	h := s.heard.add(protocol, c.LocalAddr().(*net.TCPAddr).Port, peer(c))
	err := raw(s, &listening{TCPConn: c, h: h})
	h.end(ending(err))
}

// peer asks the kernel, as an application may at any time, who the other side is.
func peer(c *net.TCPConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	var name string
	_ = raw.Control(func(fd uintptr) {
		a, err := unix.Getpeername(int(fd))
		switch a := a.(type) {
		case *unix.SockaddrInet4:
			name = (&net.TCPAddr{IP: a.Addr[:], Port: a.Port}).String()
		case *unix.SockaddrInet6:
			name = (&net.TCPAddr{IP: a.Addr[:], Port: a.Port}).String()
		default:
			name = text(err)
		}
	})
	return name
}

// rawProtocol has a conversation; nil says that the other side ended it in order.
type rawProtocol func(*server, *listening) error

var rawProtocols = map[string]rawProtocol{
	"echo": func(s *server, c *listening) error {
		fmt.Fprintf(c, "peer %s pod %s\n", peer(c.TCPConn), s.pod)
		if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err != nil {
			return err
		}
		return c.CloseWrite()
	},
	"first": func(s *server, c *listening) error {
		fmt.Fprintf(c, "220 %s ready\n", s.pod)
		return drainAll(c)
	},
	"sink": func(_ *server, c *listening) error { return drainAll(c) },
	"reset": func(_ *server, c *listening) error {
		_, err := bufio.NewReader(c).ReadString('\n')
		_ = c.SetLinger(0)
		return err
	},
	"half": func(_ *server, c *listening) error {
		fmt.Fprintln(c, "bye")
		if err := c.CloseWrite(); err != nil {
			return err
		}
		return drainAll(c)
	},
}

func drainAll(r io.Reader) error {
	_, err := io.Copy(io.Discard, struct{ io.Reader }{r})
	return err
}
