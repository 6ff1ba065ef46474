// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// report tells a person what happens and how long each stage took. The zero value and nil are silent.
type report struct {
	mu    sync.Mutex
	out   io.Writer
	begin time.Time
}

func newReport(out io.Writer) *report { return &report{out: out, begin: time.Now()} }

// note prints a line with the seconds since the start.
func (r *report) note(format string, args ...any) {
	if r == nil || r.out == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%7.1fs  %s\n", time.Since(r.begin).Seconds(), fmt.Sprintf(format, args...))
}

// stage times what happens until done is called.
func (r *report) stage(name string) (done func()) {
	begin := time.Now()
	return func() { r.note("%s (%s)", name, round(time.Since(begin))) }
}

func round(d time.Duration) time.Duration {
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(10 * time.Millisecond)
}

// progressEvery is how often a long compilation says how far it is.
const progressEvery = 15 * time.Second

// compiler follows `go build -v`, which prints each package as it is compiled.
func (r *report) compiler(what string) *compilation {
	return &compilation{report: r, what: what, begin: time.Now(), said: time.Now()}
}

type compilation struct {
	report             *report
	what               string
	total              int // packages in all; 0 when unknown
	begin, said        time.Time
	compiled, download int
	rest               bytes.Buffer
	other              []string // what is neither package nor download: the compiler's complaints
}

// Write is called by one goroutine: stdout and stderr of a command are the same writer.
func (c *compilation) Write(p []byte) (int, error) {
	c.rest.Write(p)
	for {
		line, err := c.rest.ReadString('\n')
		if err != nil {
			c.rest.WriteString(line)
			break
		}
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "go: downloading"):
			c.download++
		case line != "" && !strings.ContainsAny(line, " :#"):
			c.compiled++
		default:
			c.other = append(c.other, line)
		}
	}
	if time.Since(c.said) > progressEvery {
		c.said = time.Now()
		of := ""
		if c.total > 0 {
			of = fmt.Sprintf(" of at most %d", c.total)
		}
		c.report.note("  %s: %d modules fetched, %d%s packages compiled, %s so far", c.what, c.download, c.compiled, of, round(time.Since(c.begin)))
	}
	return len(p), nil
}

// tail is the end of what went wrong.
func (c *compilation) tail() string {
	return strings.Join(c.other[max(0, len(c.other)-20):], "\n")
}
