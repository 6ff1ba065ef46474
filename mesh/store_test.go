// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestStoreConcurrent(t *testing.T) {
	st := NewStore()
	const writers, each = 4, 200
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				st.Apply(PutWorkload{&Workload{UID: fmt.Sprint(i, "/", j)}}, PutService{&Service{Namespace: fmt.Sprint(i), Name: fmt.Sprint(j)}})
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			last := uint64(0)
			_, err := st.Wait(ctx, func(s *Snapshot) bool {
				if s.Version() < last {
					t.Errorf("version went back from %d to %d", last, s.Version())
				}
				last = s.Version()
				w, v := count(s)
				if w != v {
					t.Errorf("a step was seen in part: %d workloads, %d services", w, v)
				}
				return w == writers*each
			})
			if err != nil {
				t.Errorf("not all changes were seen: %v", err)
			}
		})
	}
	wg.Wait()
}

func count(s *Snapshot) (workloads, services int) {
	s.Workloads(func(*Workload) bool { workloads++; return true })
	s.Services(func(*Service) bool { services++; return true })
	return workloads, services
}

func TestStoreWatch(t *testing.T) {
	st := NewStore()
	before, changed := st.Watch()
	if st.Apply() != before {
		t.Error("no change made a new snapshot")
	}
	select {
	case <-changed:
		t.Fatal("told a change when there was none")
	default:
	}
	after := st.Apply(PutWorkload{&Workload{UID: "x"}})
	select {
	case <-changed:
	default:
		t.Fatal("a change was not told")
	}
	if st.Snapshot() != after || before.Workload("x") != nil {
		t.Error("the old snapshot changed, or the new one does not stand")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s, err := st.Wait(ctx, func(*Snapshot) bool { return false }); !errors.Is(err, context.Canceled) || s != after {
		t.Errorf("wait after cancel: got %v, %v", s, err)
	}
}
