// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// loading is a load that runs. Safe for concurrent use.
type loading struct {
	flags
	http *http.Client

	mu      sync.Mutex
	report  answer.Load
	success time.Time // the last
	took    []time.Duration
}

func load(args []string, out io.Writer) error {
	f, targets, err := parse("load", args, 1, math.MaxInt)
	if err != nil {
		return err
	}
	var urls []*url.URL
	for _, t := range targets {
		u, err := url.Parse(t)
		if err != nil {
			return err
		}
		urls = append(urls, u)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if f.lasting > 0 {
		ctx, stop = context.WithTimeout(ctx, f.lasting)
		defer stop()
	} else {
		go func() { // whoever started it ends it
			if n, _ := io.Copy(io.Discard, os.Stdin); n == 0 && noInput() {
				return // a container has none
			}
			stop()
		}()
	}
	l := &loading{flags: f, http: client(f, f.keep)}
	l.report = answer.Load{Errors: map[string]int{}, Pods: map[string]int{}, Began: time.Now()}
	l.success = l.report.Began
	l.run(ctx, urls)
	return print(out, l.finish())
}

// noInput says whether standard input is /dev/null, as in a container.
func noInput() bool {
	s, err := os.Stdin.Stat()
	return err == nil && s.Mode()&os.ModeCharDevice != 0
}

// run works off targets in turns until ctx ends, or nothing is left to do: all connections that were held are lost.
func (l *loading) run(ctx context.Context, targets []*url.URL) {
	turns := make(chan *url.URL)
	var wg sync.WaitGroup
	for range l.workers {
		wg.Go(func() {
			for u := range turns {
				l.one(ctx, u)
			}
		})
	}
	var holds sync.WaitGroup
	var asked []*url.URL
	for _, u := range targets {
		if u.Scheme == "hold" {
			holds.Go(func() { l.hold(ctx, u.Host) })
		} else {
			asked = append(asked, u)
		}
	}
	if len(asked) > 0 {
		l.pace(ctx, asked, turns)
	}
	holds.Wait()
	close(turns)
	wg.Wait()
}

// pace hands out turns. When all workers are busy, it is late, and doesn't catch up.
func (l *loading) pace(ctx context.Context, targets []*url.URL, turns chan<- *url.URL) {
	var tick <-chan time.Time
	if l.every > 0 {
		t := time.NewTicker(l.every)
		defer t.Stop()
		tick = t.C
	}
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case turns <- targets[i%len(targets)]:
		}
		if tick == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

func (l *loading) one(ctx context.Context, u *url.URL) {
	began := time.Now()
	var pod string
	var err error
	if u.Scheme == "echo" {
		var a answer.Talk
		err = l.exchange(u.Host, l.line, &a)
		pod = a.Pod
	} else {
		pod, err = l.request(u)
	}
	l.note(u.String(), pod, began, err)
}

func (l *loading) request(u *url.URL) (pod string, err error) {
	r, err := l.http.Get(u.String())
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return "", &statusError{status: r.Status}
	}
	var a answer.HTTP
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		return "", err
	}
	return a.Pod, nil
}

// hold keeps one connection to an echo server and asks again and again. One that ends is lost, and not opened again.
func (l *loading) hold(ctx context.Context, address string) {
	var a answer.Talk
	began := time.Now()
	c, err := l.dial(address, &a)
	if err != nil {
		l.note("hold://"+address, "", began, err)
		return
	}
	defer c.Close()
	in := bufio.NewReader(c)
	_, err = in.ReadString('\n')
	for n := 0; err == nil && ctx.Err() == nil; n++ {
		began = time.Now()
		if err = l.ask(c, in, fmt.Sprintf("%s %d\n", l.line, n)); err != nil {
			break
		}
		l.note("hold://"+address, "", began, nil)
		select {
		case <-ctx.Done():
		case <-time.After(max(l.every, time.Millisecond)):
		}
	}
	if err == nil {
		return
	}
	l.note("hold://"+address, "", began, err)
	l.mu.Lock()
	l.report.Lost++
	l.mu.Unlock()
}

// ask says a line and wants it back.
func (l *loading) ask(c net.Conn, in *bufio.Reader, line string) error {
	_ = c.SetDeadline(time.Now().Add(l.timeout))
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	got, err := in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return errors.New("it ended")
	}
	if err == nil && got != line {
		err = fmt.Errorf("got %q, said %q", got, line)
	}
	return err
}

// note counts one outcome.
func (l *loading) note(target, pod string, began time.Time, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		kind := ending(err)
		l.report.Failed++
		l.report.Errors[kind]++
		if len(l.report.Failures) < 100 {
			l.report.Failures = append(l.report.Failures, answer.Failure{At: began, Target: target, End: kind, Error: err.Error(), Took: now.Sub(began)})
		}
		return
	}
	l.report.OK++
	if pod != "" {
		l.report.Pods[pod]++
	}
	l.report.Longest = max(l.report.Longest, now.Sub(l.success))
	l.success = now
	if len(l.took) < 1_000_000 {
		l.took = append(l.took, now.Sub(began))
	}
}

func (l *loading) finish() answer.Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Ended = time.Now()
	r.Longest = max(r.Longest, r.Ended.Sub(l.success))
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		r.P50, r.P99 = l.took[n/2], l.took[n*99/100]
	}
	return r
}
