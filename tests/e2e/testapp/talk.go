// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// flags are those of the clients.
type flags struct {
	network, from, line string
	timeout, retry      time.Duration
	bytes               int64
	stay, h2c, insecure bool
	every, lasting      time.Duration
	workers             int
	keep                bool
}

// parse reads a verb's flags and wants from least to most arguments.
func parse(verb string, args []string, least, most int) (flags, []string, error) {
	var f flags
	fs := flag.NewFlagSet(verb, flag.ContinueOnError)
	fs.StringVar(&f.network, "network", "tcp", "tcp, tcp4 or tcp6")
	fs.DurationVar(&f.timeout, "timeout", 10*time.Second, "for all of it, or for each request")
	switch verb {
	case "talk", "end":
		fs.StringVar(&f.from, "from", "", "local address")
		fs.Int64Var(&f.bytes, "bytes", 0, "to send after the line, checked when they come back")
		fs.BoolVar(&f.stay, "stay", false, "do not end when done")
		fs.DurationVar(&f.retry, "retry", 0, "until it succeeds")
	case "get", "load":
		fs.BoolVar(&f.h2c, "h2c", false, "HTTP/2 without TLS")
		fs.BoolVar(&f.insecure, "insecure", false, "take every certificate")
	}
	if verb == "load" {
		fs.DurationVar(&f.every, "every", 10*time.Millisecond, "between two requests of all workers together; 0: none")
		fs.DurationVar(&f.lasting, "for", 0, "how long; 0: until standard input or the process ends")
		fs.IntVar(&f.workers, "workers", 4, "how many requests at most at once")
		fs.BoolVar(&f.keep, "keep", false, "keep HTTP connections")
		fs.StringVar(&f.line, "line", "load", "what is sent")
	}
	if err := fs.Parse(args); err != nil {
		return f, nil, err
	}
	if n := fs.NArg(); n < least || n > most {
		return f, nil, fmt.Errorf("%s: %d arguments, want %d to %d", verb, n, least, most)
	}
	return f, fs.Args(), nil
}

func (f flags) dialer() *net.Dialer {
	d := &net.Dialer{Timeout: f.timeout}
	if a, err := netip.ParseAddr(f.from); err == nil {
		d.LocalAddr = &net.TCPAddr{IP: a.AsSlice()}
	} else if a, err := netip.ParseAddrPort(f.from); err == nil {
		d.LocalAddr = net.TCPAddrFromAddrPort(a)
	}
	return d
}

// talk is the verbs talk and end. The first connect comes as soon as a process can make one.
func talk(verb string, args []string, out io.Writer) error {
	f, rest, err := parse(verb, args, map[string]int{"talk": 2, "end": 1}[verb], 2)
	if err != nil {
		return err
	}
	one := func() answer.Talk {
		if verb == "talk" {
			return f.converse(rest[0], rest[1])
		}
		line := ""
		if len(rest) == 2 {
			line = rest[1] + "\n"
		}
		return f.untilEnd(rest[0], line)
	}
	a := one()
	for began := time.Now(); f.retry > 0 && !a.OK() && time.Since(began) < f.retry; a = one() {
		time.Sleep(20 * time.Millisecond)
	}
	if err := print(out, a); err != nil || !f.stay {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
	return nil
}

// dial opens a connection on which everything has to be done in time.
func (f flags) dial(address string, a *answer.Talk) (*net.TCPConn, error) {
	c, err := f.dialer().Dial(f.network, address)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(f.timeout))
	a.Local, a.Remote = c.LocalAddr().String(), c.RemoteAddr().String()
	return c.(*net.TCPConn), nil
}

// converse says a line and the bytes to an echo server and wants them back.
func (f flags) converse(address, line string) (a answer.Talk) {
	began := time.Now()
	err := f.exchange(address, line, &a)
	a.Took, a.End, a.Error = time.Since(began), ending(err), text(err)
	return a
}

func (f flags) exchange(address, line string, a *answer.Talk) error {
	c, err := f.dial(address, a)
	if err != nil {
		return err
	}
	defer c.Close()
	sent := make(chan uint32, 1)
	failed := make(chan error, 1)
	go func() {
		sum := crc32.NewIEEE()
		_, err := io.Copy(io.MultiWriter(c, sum), io.MultiReader(strings.NewReader(line+"\n"), io.LimitReader(pattern(), f.bytes)))
		sent <- sum.Sum32()
		// After a reset there is nothing left to shut down; reading tells what it was.
		if err == nil {
			if err = c.CloseWrite(); errors.Is(err, syscall.ENOTCONN) {
				err = nil
			}
		}
		failed <- err
	}()
	in := bufio.NewReaderSize(c, 64<<10)
	greeting, err := in.ReadString('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			// A socket tells of a reset once: the writer may have been told, and reading ends then as if in order.
			select {
			case err := <-failed:
				if err != nil {
					return err
				}
			case <-time.After(time.Second):
			}
			return errors.New("it ended without a greeting")
		}
		return err
	}
	if _, err := fmt.Sscanf(greeting, "peer %s pod %s\n", &a.Peer, &a.Pod); err != nil {
		return fmt.Errorf("greeting %q", greeting)
	}
	sum := crc32.NewIEEE()
	first := &head{limit: 200}
	if a.Bytes, err = io.Copy(io.MultiWriter(sum, first), in); err != nil {
		return err
	}
	a.Got = first.String()
	if err := <-failed; err != nil {
		return err
	}
	if want := int64(len(line)+1) + f.bytes; a.Bytes != want || sum.Sum32() != <-sent {
		return fmt.Errorf("%d bytes came back, %d were sent, or they differ", a.Bytes, want)
	}
	return nil
}

// untilEnd connects, says a line if there is one, and reads until the other side ends it.
func (f flags) untilEnd(address, line string) (a answer.Talk) {
	began := time.Now()
	err := func() error {
		c, err := f.dial(address, &a)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, line); err != nil {
			return err
		}
		first := &head{limit: 200}
		a.Bytes, err = io.Copy(first, c)
		a.Got = first.String()
		return err
	}()
	a.Took, a.End, a.Error = time.Since(began), ending(err), text(err)
	return a
}

// head keeps the beginning of what is written to it.
type head struct {
	b     []byte
	limit int
}

func (h *head) Write(b []byte) (int, error) {
	h.b = append(h.b, b[:min(len(b), h.limit-len(h.b))]...)
	return len(b), nil
}

func (h *head) String() string { return string(h.b) }

// pattern is endless and looks like nothing that compresses, the same every time.
func pattern() io.Reader { return rand.NewChaCha8([32]byte{1}) }
