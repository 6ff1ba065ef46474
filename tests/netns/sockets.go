// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// Dial connects from inside the pod: socket and connect(2) belong to its process, so programs on its cgroup see them.
// network is tcp, tcp4, tcp6, udp…; the host may be a name of the pod's hosts file ("echo", "echo.app"…).
// TCP connections are *net.TCPConn.
func (p *Pod) Dial(ctx context.Context, network, address string, options ...DialOptions) (net.Conn, error) {
	p.Node.mesh.settle()
	c, err := p.sandbox.dial(ctx, network, address, options)
	if err != nil {
		return nil, err
	}
	return p.holds.conn(c), nil
}

// Dial connects from the node's own network namespace and the kubelet's cgroup, as a probe does.
func (n *Node) Dial(ctx context.Context, network, address string, options ...DialOptions) (net.Conn, error) {
	n.mesh.settle()
	return n.sandbox.dial(ctx, network, address, options)
}

func (s *sandbox) dial(ctx context.Context, network, address string, options []DialOptions) (net.Conn, error) {
	fds, err := s.call(ctx, request{Op: "dial", Network: network, Address: address, Dial: first(options)})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), address)
	defer f.Close()
	return net.FileConn(f)
}

// Listen opens a TCP listener in the pod.
func (p *Pod) Listen(network, address string, options ...DialOptions) (*Listener, error) {
	fds, err := p.sandbox.call(context.Background(), request{Op: "listen", Network: network, Address: address, Dial: first(options)})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), address)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	p.holds.closer(l)
	return &Listener{TCPListener: l.(*net.TCPListener), holds: &p.holds}, nil
}

// ListenPacket opens a UDP socket in the pod.
func (p *Pod) ListenPacket(network, address string) (net.PacketConn, error) {
	fds, err := p.sandbox.call(context.Background(), request{Op: "listen", Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), address)
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	p.holds.closer(c)
	return c, nil
}

// Socket makes any socket in the pod: socket(2)'s domain, type and protocol. It closes with the pod.
func (p *Pod) Socket(domain, typ, protocol int) (*os.File, error) {
	f, err := p.sandbox.socket(domain, typ, protocol)
	if err == nil {
		p.holds.closer(f)
	}
	return f, err
}

func (s *sandbox) socket(domain, typ, protocol int) (*os.File, error) {
	fds, err := s.call(context.Background(), request{Op: "socket", Socket: [3]int{domain, typ, protocol}})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), s.name), nil
}

func first(options []DialOptions) *DialOptions {
	if len(options) == 0 {
		return nil
	}
	return &options[0]
}

// Start starts the command in the pod. Use cmd.Wait to wait for it.
func (p *Pod) Start(cmd *exec.Cmd) error {
	p.Node.mesh.settle()
	dir, err := p.container("exec")
	if err != nil {
		return err
	}
	return place{net: p.PID(), mnt: p.PID(), cgroup: dir}.start(cmd)
}

// Exec runs a command in the pod and returns what it printed, stdout and stderr together.
func (p *Pod) Exec(ctx context.Context, name string, args ...string) (string, error) {
	return run(exec.CommandContext(ctx, name, args...), p.Start)
}

// Exec runs a command on the node: its network and mounts, and the kubelet's cgroup.
func (n *Node) Exec(ctx context.Context, name string, args ...string) (string, error) {
	return run(exec.CommandContext(ctx, name, args...), n.here().start)
}

func run(cmd *exec.Cmd, start func(*exec.Cmd) error) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", cmd.Args[0], err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}

// Addr is the pod's address of the network's family (IPv4 unless it ends with 6) with a port.
func (p *Pod) Addr(network string, port uint16) netip.AddrPort {
	if strings.HasSuffix(network, "6") {
		return netip.AddrPortFrom(p.IPv6, port)
	}
	return netip.AddrPortFrom(p.IPv4, port)
}
