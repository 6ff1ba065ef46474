// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	cause := errors.New("cause")
	parent, end := context.WithCancelCause(t.Context())
	defer end(nil)
	p := patient(parent, time.Hour)
	if p.Err() != nil || p.timed != nil {
		t.Errorf("it begins with %v, and a timer: %v", p.Err(), p.timed != nil)
	}
	if at, ok := p.Deadline(); !ok || time.Until(at) < 50*time.Minute {
		t.Errorf("deadline %v, %v", at, ok)
	}
	before := patient(parent, time.Hour) // nobody waits for it
	told := make(chan error, 1)
	context.AfterFunc(p, func() { told <- context.Cause(p) })
	child, cancel := context.WithCancel(p)
	defer cancel()
	end(cause)
	if err := <-told; err != cause {
		t.Errorf("after the parent: cause %v", err)
	}
	<-child.Done()
	for name, p := range map[string]*patience{"waited for": p, "not waited for": before} {
		if p.Err() != context.Canceled || context.Cause(p) != cause {
			t.Errorf("%s: %v, cause %v", name, p.Err(), context.Cause(p))
		}
		p.over()
	}
}

func TestPatienceIsAtAnEnd(t *testing.T) {
	p := patient(t.Context(), 10*time.Millisecond)
	<-p.Done()
	idle := patient(t.Context(), -time.Second)
	for name, p := range map[string]*patience{"waited for": p, "not waited for": idle} {
		if p.Err() != context.DeadlineExceeded || context.Cause(p) != context.DeadlineExceeded {
			t.Errorf("%s: %v, cause %v", name, p.Err(), context.Cause(p))
		}
	}
	over := patient(t.Context(), time.Hour)
	done := over.Done()
	over.over()
	<-done
}
