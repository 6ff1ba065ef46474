// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

// LeaseName is the Lease in control's namespace.
const LeaseName = "warren-control"

// A replica that dies is followed after leaseDuration; one that can't renew stops writing renewDeadline after it
// last could, whatever its requests hang in, so that at no instant two write.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// ErrNotLeading is why a replica does not write.
var ErrNotLeading = errors.New("another replica is the one that writes")

// Election is among the replicas of control. Safe for concurrent use.
type Election struct {
	config leaderelection.LeaderElectionConfig
	lease  *lease
	log    *slog.Logger
	term   atomic.Pointer[term] // of the last time this replica led
}

// term is a time in which one replica leads, in one tenure of the lease.
type term struct {
	ctx    context.Context
	since  time.Time
	tenure int
}

// NewElection returns an election over a Lease in the namespace. identity has to be this process's alone: the
// name of its pod; a suffix tells a restarted container from its predecessor.
func NewElection(client *apiserver.Client, namespace, identity string, log *slog.Logger) (*Election, error) {
	rc, h := client.Rest()
	leases, err := coordinationv1.NewForConfigAndClient(rc, h)
	if err != nil {
		return nil, fmt.Errorf("elect a writer: %w", err)
	}
	l := &lease{now: time.Now, wall: func() time.Time { return time.Now().Round(0) }, Interface: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: LeaseName},
		Client:     leases,
		LockConfig: resourcelock.ResourceLockConfig{Identity: identity + "-" + rand.Text()[:6]},
	}}
	e := &Election{log: log, lease: l, config: leaderelection.LeaderElectionConfig{Name: LeaseName, Lock: l, ReleaseOnCancel: true}}
	e.pace(leaseDuration, renewDeadline, retryPeriod)
	return e, nil
}

func (e *Election) pace(lease, renew, retry time.Duration) {
	e.config.LeaseDuration, e.config.RenewDeadline, e.config.RetryPeriod = lease, renew, retry
	e.lease.good, e.lease.timeout = renew, renew/2
}

// Leading reports whether this replica is the one that writes.
func (e *Election) Leading() bool {
	_, leads := e.Term()
	return leads
}

// Term reports that too, and since when, without a break.
func (e *Election) Term() (since time.Time, leads bool) {
	t := e.term.Load()
	if t == nil || t.ctx.Err() != nil || e.lease.left(t.tenure) <= 0 {
		return time.Time{}, false
	}
	return t.since, true
}

// Run takes part until ctx ends. While this replica leads, write runs with a context that ends when it no longer
// does; a lost lease is stood for again. write has to return soon after its context ended.
func (e *Election) Run(ctx context.Context, write func(ctx context.Context)) error {
	for ctx.Err() == nil {
		if err := e.stand(ctx, write); err != nil {
			return fmt.Errorf("elect a writer: %w", err)
		}
	}
	return nil
}

// stand waits for the lease, and has it until it is lost.
func (e *Election) stand(ctx context.Context, write func(ctx context.Context)) error {
	candidacy, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan struct{})
	cfg := e.config
	cfg.Callbacks = leaderelection.LeaderCallbacks{
		OnStartedLeading: func(ctx context.Context) {
			defer close(ended)
			e.lead(ctx, end, write)
		},
		OnStoppedLeading: func() {}, // lead notices by its context
	}
	le, err := leaderelection.NewLeaderElector(cfg)
	if err != nil {
		return err
	}
	le.Run(candidacy)
	select {
	case <-ended: // the lease was had, and is lost
	case <-ctx.Done(): // or was never had
	}
	return nil
}

// lead is one term. It calls end when the lease is good no longer: client-go first tries to renew, and then to release it, for
// as long as its requests hang.
func (e *Election) lead(ctx context.Context, end func(), write func(ctx context.Context)) {
	t := &term{ctx, time.Now(), e.lease.current()}
	e.term.Store(t)
	e.log.Info("this replica writes now")
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		e.watch(t)
		end()
	}()
	write(ctx)
	<-watched
	e.term.Store(nil)
	e.log.Info("this replica writes no longer")
}

// watch returns when the term is over.
func (e *Election) watch(t *term) {
	for left := e.lease.left(t.tenure); left > 0; left = e.lease.left(t.tenure) {
		select {
		case <-t.ctx.Done():
			return
		case <-time.After(min(left, e.config.RetryPeriod)): // the wall clock may jump meanwhile
		}
	}
}

var leadingDesc = prometheus.NewDesc("warren_control_writes", "1 while this replica is the one that writes Secret, ConfigMaps and conditions.", nil, nil)

// Describe implements prometheus.Collector.
func (e *Election) Describe(ch chan<- *prometheus.Desc) { ch <- leadingDesc }

// Collect implements prometheus.Collector.
func (e *Election) Collect(ch chan<- prometheus.Metric) {
	v := 0.0
	if e.Leading() {
		v = 1
	}
	ch <- prometheus.MustNewConstMetric(leadingDesc, prometheus.GaugeValue, v)
}
