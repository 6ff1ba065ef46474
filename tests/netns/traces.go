// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// traces is what the host looks like outside the mesh's namespaces: it must be the same before and after.
type traces struct {
	sysctls   map[string]string
	links     []string
	listeners []string
}

// watchedSysctls are the host's settings that a node agent might be tempted to change. Those of single interfaces and
// counters that move by themselves are left out.
var watchedSysctls = []string{"net/core", "net/ipv4", "net/ipv6", "net/ipv4/conf/all", "net/ipv4/conf/default",
	"net/ipv6/conf/all", "net/ipv6/conf/default", "net/bridge", "kernel/unprivileged_bpf_disabled"}

func lookForTraces() traces {
	return traces{sysctls: sysctls(watchedSysctls), links: hostLinks(), listeners: hostListeners()}
}

func sysctls(dirs []string) map[string]string {
	out := map[string]string{}
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join("/proc/sys", dir, "*"))
		for _, path := range append(files, filepath.Join("/proc/sys", dir)) {
			if s, err := os.Stat(path); err == nil && s.Mode().IsRegular() && s.Mode()&0o400 != 0 {
				b, _ := os.ReadFile(path)
				out[path] = strings.TrimSpace(string(b))
			}
		}
	}
	return out
}

func hostLinks() []string {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer h.Close()
	all, err := links{h}.list()
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range all {
		out = append(out, l.Attrs().Name)
	}
	return out
}

// automatic says whether the kernel makes such a link in every new network namespace, because a module is loaded.
func automatic(l netlink.Link) bool {
	switch l.Type() {
	case "sit", "ip6tnl", "ipip", "gre", "gretap", "erspan", "ip6gre", "ip6gretap", "vti", "vti6", "tunl", "ifb":
		return true
	}
	return l.Attrs().Name == "lo"
}

// hostListeners names what only belongs into a node's own namespaces: unix sockets of a /run/warren, and TCP listeners
// on the mesh's ports.
func hostListeners() []string {
	var out []string
	_ = filepath.WalkDir("/run/warren", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, "file "+path)
		}
		return nil
	})
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(table)
		for line := range strings.Lines(string(b)) {
			if port, ok := listening(line); ok && (port >= 15000 && port < 15100 || port >= 61000 && port < 61064) {
				out = append(out, fmt.Sprintf("listener on port %d in %s", port, table))
			}
		}
	}
	return out
}

// listening reads the port of a line of /proc/net/tcp whose socket listens.
func listening(line string) (port int, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || fields[3] != "0A" {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[1][strings.LastIndexByte(fields[1], ':')+1:], 16, 16)
	return int(n), err == nil
}

// changes names what differs now. Links take a moment to go.
func (t traces) changes() []string {
	if t.sysctls == nil {
		return nil
	}
	var out []string
	now := lookForTraces()
	for _, path := range slices.Sorted(maps.Keys(t.sysctls)) {
		if v, ok := now.sysctls[path]; ok && v != t.sysctls[path] {
			out = append(out, fmt.Sprintf("sysctl %s was %q, is %q", path, t.sysctls[path], v))
		}
	}
	for end := time.Now().Add(goneWithin); len(added(t.links, now.links)) > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		now.links = hostLinks()
	}
	for _, l := range added(t.links, now.links) {
		out = append(out, "link "+l+" on the host")
	}
	for _, l := range added(t.listeners, now.listeners) {
		out = append(out, l+" on the host")
	}
	return out
}

func added(before, after []string) []string {
	var out []string
	for _, a := range after {
		if !contains(before, a) {
			out = append(out, a)
		}
	}
	return out
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }
