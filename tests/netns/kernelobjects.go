// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelObjects are the ids of BPF programs, maps and links, as "prog_id 7".
type kernelObjects map[string]string // to who has it

// idFields are the lines of /proc/PID/fdinfo/FD that name BPF objects, with the commands that open them by id.
var idFields = map[string]int{"prog_id": 13, "map_id": 14, "link_id": 30} // BPF_{PROG,MAP,LINK}_GET_FD_BY_ID

// kernelObjects collects the BPF objects that the mesh's processes hold and that are pinned in the nodes' bpffs.
func (m *Mesh) kernelObjects() kernelObjects {
	out := kernelObjects{}
	for _, pid := range cgroupProcs(m.cgroup) {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
		for _, f := range fds {
			out.add(f, "held by "+describe([]int{pid}))
		}
	}
	for _, n := range m.nodes {
		for path, id := range n.Pins() {
			out[id] = "pinned on node " + n.Name + " as " + path
		}
	}
	return out
}

func (k kernelObjects) add(fdinfo, who string) {
	b, _ := os.ReadFile(fdinfo)
	for line := range strings.Lines(string(b)) {
		field, value, ok := strings.Cut(line, ":")
		if _, known := idFields[field]; ok && known {
			k[field+" "+strings.TrimSpace(value)] = who
		}
	}
}

// stillThere names the objects that exist though nobody should hold them any more.
func (k kernelObjects) stillThere() []string {
	var left []string
	for end := time.Now().Add(goneWithin); ; time.Sleep(10 * time.Millisecond) {
		left = left[:0]
		for id, who := range k {
			if exists(id) {
				left = append(left, fmt.Sprintf("BPF object %s, which was %s", id, who))
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			slices.Sort(left)
			return left
		}
	}
}

// exists asks the kernel for an object by id.
func exists(id string) bool {
	field, number, _ := strings.Cut(id, " ")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return false
	}
	fd, err := bpf(idFields[field], struct{ id, next, flags, pad uint32 }{id: uint32(n)})
	if err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	unix.Close(fd)
	return true
}

// bpf is bpf(2) for the small commands: the attribute's first 16 bytes.
func bpf(cmd int, attr struct{ id, next, flags, pad uint32 }) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// Pins returns what is pinned in the node's bpffs: path below it to "prog_id 7".
func (n *Node) Pins() map[string]string {
	out := map[string]string{}
	root := fmt.Sprintf("/proc/%d/root/sys/fs/bpf", n.sandbox.pid())
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		rel, _ := filepath.Rel(root, path)
		if id, err := pinned(path); err == nil {
			out[rel] = id
		}
		return nil
	})
	return out
}

// pinned opens a pin and reads the object's id from our own fdinfo.
func pinned(path string) (string, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return "", err
	}
	attr := struct {
		path     uint64
		fd, flag uint32
	}{path: uint64(uintptr(unsafe.Pointer(p)))}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, 7 /* BPF_OBJ_GET */, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return "", errno
	}
	defer unix.Close(int(fd))
	k := kernelObjects{}
	k.add(fmt.Sprintf("/proc/self/fdinfo/%d", fd), "")
	for id := range k {
		return id, nil
	}
	return "", fmt.Errorf("%s is no BPF object", path)
}
