// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Traces is everything by which a mesh could show in a pod and at its node's end: annotations, sysctls, listeners,
// addresses, rules and routes in its network namespace, BPF programs on it and on the host's end of its link, pins, and
// state of the broker. By what it is.
type Traces map[string]string

// Traces looks for them.
func (p *Pod) Traces() Traces {
	p.t.Helper()
	out := Traces{}
	o, err := p.mesh.Client().CoreV1().Pods(p.Namespace).Get(p.t.Context(), p.Name, metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	for k, v := range o.Annotations {
		out["annotation "+k] = v
	}
	for _, c := range o.Status.Conditions {
		out["condition "+string(c.Type)] = string(c.Status)
	}
	main, err := p.process()
	if err != nil {
		p.t.Fatal(err)
	}
	own := fmt.Sprintf("/proc/%d/ns/net", main.PID)
	cookie := ""
	out.within(own, func() (err error) {
		cookie, err = netnsCookie()
		return errorsOf(err, out.sysctls(), out.programs(own), out.listeners(main.PID))
	})
	out.network(main.PID)
	node, err := p.mesh.PID(p.Node)
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/sys/class/net/eth0/iflink", main.PID))
	if err != nil {
		p.t.Fatal(err)
	}
	hostEnd, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		p.t.Fatal(err)
	}
	out.within(fmt.Sprintf("/proc/%d/ns/net", node), func() error { return out.guards(hostEnd) })
	root := fmt.Sprintf("/proc/%d/root", node)
	out.files(root, "/sys/fs/bpf", func(path string) bool { return filepath.Base(path) == cookie })
	out.files(root, "/run/warren", func(path string) bool {
		b, _ := os.ReadFile(path)
		return strings.Contains(path, p.UID) || strings.Contains(string(b), p.UID)
	})
	return out
}

// Beyond names what is in these traces and not, or otherwise, in the others.
func (t Traces) Beyond(others Traces) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(t)) {
		if v, ok := others[k]; !ok || v != t[k] {
			out = append(out, fmt.Sprintf("%s: %q, was %q", k, t[k], v))
		}
	}
	return out
}

// within runs look on a thread that joined a network namespace and ends with it; what goes wrong is a trace, too.
func (t Traces) within(namespace string, look func() error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		ns, err := os.Open(namespace)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- look()
	}()
	if err := <-done; err != nil {
		t["looking in "+namespace] = err.Error()
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// sysctls reads those of the calling thread's network namespace.
func (t Traces) sysctls() error {
	return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		switch filepath.Base(path) {
		case "nf_conntrack_count", "random", "stable_secret", "flush": // move by themselves, or are no settings
			return nil
		}
		if b, err := os.ReadFile(path); err == nil {
			t["sysctl "+path] = strings.TrimSpace(string(b))
		}
		return nil
	})
}

// programs are those attached to the network namespace itself.
func (t Traces) programs(namespace string) error {
	ns, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer ns.Close()
	return t.query("sk_lookup", link.QueryOptions{Target: int(ns.Fd()), Attach: ebpf.AttachSkLookup})
}

// guards are programs on the host's end of the pod's link.
func (t Traces) guards(index int) error {
	return errorsOf(
		t.query("tcx ingress of the host's end", link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress}),
		t.query("tcx egress of the host's end", link.QueryOptions{Target: index, Attach: ebpf.AttachTCXEgress}))
}

func (t Traces) query(what string, o link.QueryOptions) error {
	r, err := link.QueryPrograms(o)
	if err != nil {
		return fmt.Errorf("query %s: %w", what, err)
	}
	for _, p := range r.Programs {
		t[fmt.Sprintf("program %d at %s", p.ID, what)] = "attached"
	}
	return nil
}

// listeners are the TCP sockets of a process's network namespace that listen.
func (t Traces) listeners(pid int) error {
	for _, table := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" {
				t[fmt.Sprintf("listener %s %s", table, f[1])] = "listens"
			}
		}
	}
	return nil
}

// network is what ip tells.
func (t Traces) network(pid int) {
	for _, args := range [][]string{{"-o", "link"}, {"-o", "addr"}, {"rule"}, {"-6", "rule"}, {"route", "show", "table", "all"}} {
		out, err := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(pid), "-n", "ip"}, args...)...).Output()
		if err != nil {
			t["ip "+strings.Join(args, " ")] = err.Error()
		}
		for line := range strings.Lines(string(out)) {
			t["ip "+strings.Join(args, " ")+": "+strings.TrimSpace(line)] = "there"
		}
	}
}

// files names those below a directory of the node that are about the pod.
func (t Traces) files(root, dir string, about func(path string) bool) {
	_ = filepath.WalkDir(root+dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && about(path) {
			t["file "+strings.TrimPrefix(path, root)] = "is about it"
		}
		return nil
	})
}

// netnsCookie is the kernel's number of the calling thread's network namespace, by which pins are named.
func netnsCookie() (string, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	n, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return strconv.FormatUint(n, 10), os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
}
