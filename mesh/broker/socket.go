// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// SocketName is the file name of a part's socket: part "broker", "ztunnel" or "agent"; what is "" or, for the
// agent, "zds" or "wds", for ztunnel also "admin". A generation has no "-".
func SocketName(part, generation, what string) string {
	if what != "" {
		return part + "-" + generation + "-" + what + ".sock"
	}
	return part + "-" + generation + ".sock"
}

// SocketPaths lists the sockets of a part below dir, the one made last first. A missing directory is empty.
func SocketPaths(dir, part, what string) ([]string, error) {
	es, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	suffix := ".sock"
	if what != "" {
		suffix = "-" + what + suffix
	}
	type socket struct {
		path string
		made time.Time
	}
	var found []socket
	for _, e := range es {
		generation, is := strings.CutPrefix(e.Name(), part+"-")
		if is {
			generation, is = strings.CutSuffix(generation, suffix)
		}
		if e.Type()&fs.ModeSocket == 0 || !is || strings.Contains(generation, "-") {
			continue
		}
		if i, err := e.Info(); err == nil {
			found = append(found, socket{filepath.Join(dir, e.Name()), i.ModTime()})
		}
	}
	slices.SortFunc(found, func(a, b socket) int {
		return cmp.Or(b.made.Compare(a.made), strings.Compare(b.path, a.path))
	})
	var paths []string
	for _, s := range found {
		paths = append(paths, s.path)
	}
	return paths, nil
}

// Listen makes a SOCK_SEQPACKET socket that the run directory's group may connect to. Whatever stood at the
// path is replaced. Closing does not unlink it: a sealed process may not, and its successor has another name.
func Listen(path string) (*net.UnixListener, error) { return listen("unixpacket", path) }

// ListenStream is Listen for a SOCK_STREAM socket.
func ListenStream(path string) (*net.UnixListener, error) { return listen("unix", path) }

func listen(network, path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("listen: %w (a socket's path has at most 107 bytes; this has %d)", err, len(path))
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
