// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"fmt"
	"net"
	"time"
)

// DialNewest connects to the newest of a part's SOCK_STREAM sockets below dir that answers.
func DialNewest(ctx context.Context, dir, part, what string) (net.Conn, error) {
	paths, err := SocketPaths(dir, part, what)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("no %s listens in %s (is it running on this node, and may you read the directory?)", part, dir)
	d := net.Dialer{Timeout: time.Second}
	for _, p := range paths {
		var c net.Conn
		if c, err = d.DialContext(ctx, "unix", p); err == nil {
			return c, nil
		}
	}
	return nil, err
}
