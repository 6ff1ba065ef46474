// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
)

// Serve answers connections of a listener until ctx ends, then nil. The listener is closed in any case. Peers on a
// unix socket prove who they are by the socket's permissions; elsewhere use Register on a server with credentials.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer()
	s.Register(g)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve WDS on %s: %w", l.Addr(), err)
	}
	return nil
}
