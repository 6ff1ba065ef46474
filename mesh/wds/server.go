// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/mesh"
)

// answerTimeout is how long a client may leave a response unanswered before its stream is ended: it would
// hold on to removals that everybody else has forgotten.
const answerTimeout = time.Minute

// Server serves a store over delta ADS. Safe for concurrent use.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	store *mesh.Store
	log   *slog.Logger
	hub   *hub
}

// NewServer returns a server of store. Host names of services that carry none end in clusterDomain; empty
// means DefaultClusterDomain.
func NewServer(store *mesh.Store, log *slog.Logger, clusterDomain string) *Server {
	if clusterDomain == "" {
		clusterDomain = DefaultClusterDomain
	}
	return &Server{store: store, log: log, hub: newHub(log, clusterDomain)}
}

// Register makes g answer DeltaAggregatedResources.
func (s *Server) Register(g *grpc.Server) {
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// Streams returns how many clients are connected.
func (s *Server) Streams() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.hub.streams)
}

// adsStream is the transport's side of one client.
type adsStream = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// DeltaAggregatedResources serves one client until it goes.
func (s *Server) DeltaAggregatedResources(ads adsStream) error {
	ctx, cancel := context.WithCancel(ads.Context())
	defer cancel()
	requests, failed := make(chan *discovery.DeltaDiscoveryRequest), make(chan error, 1)
	go receive(ctx, ads, requests, failed)

	st := newStream(s.log)
	s.hub.mu.Lock()
	s.hub.streams[st] = struct{}{}
	s.hub.mu.Unlock()
	defer func() {
		s.hub.mu.Lock()
		delete(s.hub.streams, st)
		s.hub.mu.Unlock()
	}()
	for {
		changed, timeout, err := s.push(ads, st)
		if err != nil {
			return err
		}
		select {
		case r := <-requests:
			s.request(st, r)
		case <-changed:
		case <-timeout:
			return status.Error(codes.DeadlineExceeded, "response was not acknowledged")
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// request takes in one request, and the client's name with its first.
func (s *Server) request(st *stream, r *discovery.DeltaDiscoveryRequest) {
	if r.GetNode().GetId() != "" && len(st.subs) == 0 {
		st.log = s.log.With("client", r.Node.Id)
		st.log.Debug("client subscribed")
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	st.request(r)
}

// push sends what the client lacks, if it has answered all it was sent. It returns what to wait for: a
// change of the store, or the deadline of the client's answer.
func (s *Server) push(ads adsStream, st *stream) (changed <-chan struct{}, timeout <-chan time.Time, err error) {
	if len(st.pending) > 0 {
		return nil, time.After(time.Until(st.sent.Add(answerTimeout))), nil
	}
	_, changed = s.store.Watch()
	s.hub.mu.Lock()
	s.hub.refresh(s.store)
	round := st.round(s.hub)
	s.hub.mu.Unlock()
	for _, r := range round {
		if err := ads.Send(r); err != nil {
			return nil, nil, fmt.Errorf("send %s: %w", r.TypeUrl, err)
		}
	}
	if len(round) > 0 {
		st.sent = time.Now()
		return nil, time.After(answerTimeout), nil
	}
	return changed, nil, nil
}

// receive hands on the client's requests until it goes.
func receive(ctx context.Context, ads adsStream, to chan<- *discovery.DeltaDiscoveryRequest, failed chan<- error) {
	for {
		r, err := ads.Recv()
		if errors.Is(err, io.EOF) { // the client has nothing more to say, and goes
			failed <- nil
			return
		}
		if err != nil {
			failed <- err
			return
		}
		select {
		case to <- r:
		case <-ctx.Done():
			return
		}
	}
}
