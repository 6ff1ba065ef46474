// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialer turns the options into a net.Dialer.
func dialer(o *DialOptions) *net.Dialer {
	d := &net.Dialer{Timeout: 10 * time.Second}
	d.SetMultipathTCP(false)
	if o == nil {
		return d
	}
	if o.Timeout > 0 {
		d.Timeout = o.Timeout
	}
	d.SetMultipathTCP(o.Multipath)
	d.Control = control(o)
	if a, err := netip.ParseAddrPort(o.Local); err == nil {
		d.LocalAddr = net.TCPAddrFromAddrPort(a)
	}
	return d
}

// control sets the socket options between socket and connect or bind.
func control(o *DialOptions) func(network, address string, c syscall.RawConn) error {
	if o == nil {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		e := c.Control(func(fd uintptr) { err = setOptions(int(fd), o) })
		if e != nil {
			return e
		}
		return err
	}
}

func setOptions(fd int, o *DialOptions) error {
	if o.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, o.Mark); err != nil {
			return os.NewSyscallError("setsockopt SO_MARK", err)
		}
	}
	if o.ReuseAddr {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
	}
	if o.Device != "" {
		if err := unix.BindToDevice(fd, o.Device); err != nil {
			return os.NewSyscallError("setsockopt SO_BINDTODEVICE", err)
		}
	}
	return nil
}

// resolve returns host:port with the host's addresses from /etc/hosts, IPv4 first, of the network's family.
func resolve(network, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{address}, nil
	}
	addrs, err := lookupHosts("/etc/hosts", host)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addrs {
		if strings.HasSuffix(network, "4") && !a.Is4() || strings.HasSuffix(network, "6") && !a.Is6() {
			continue
		}
		out = append(out, net.JoinHostPort(a.String(), port))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("look up %s: no such host of network %s in /etc/hosts", host, network)
	}
	return out, nil
}

// lookupHosts reads a hosts file and returns the addresses of a name, IPv4 before IPv6.
func lookupHosts(path, name string) ([]netip.Addr, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []netip.Addr
	for s := bufio.NewScanner(f); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.Contains(fields[1:], name) {
			continue
		}
		if a, err := netip.ParseAddr(fields[0]); err == nil {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return out, nil
}
