// SPDX-License-Identifier: Apache-2.0

//go:build !race

// The race detector keeps terabytes of shadow memory, which can't be searched.

package identity

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/mesh"
)

// secretOf is a key's scalar as a test may hold it: masked, so that the test itself leaves no copy to be found.
type secretOf struct{ bytes, words []byte } // big-endian as encodings have it, little-endian as arithmetic does

const mask = 0xa5

func (s *Store) secretOf(id mesh.Identity) secretOf {
	k := s.entries[id].current.Load().key
	k.mu.RLock()
	defer k.mu.RUnlock()
	b := make([]byte, 32)
	//lint:ignore SA1019 the test looks for this very number
	k.priv.D.FillBytes(b)
	for i := range b {
		b[i] ^= mask
	}
	w := slices.Clone(b)
	slices.Reverse(w)
	return secretOf{bytes: b, words: w}
}

// search counts the places in this process's writable memory that hold a masked pattern's plain text.
func search(t *testing.T, masked []byte) (n int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	// Outside the heap, or what was read would be found again.
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	own := uint64(uintptr(unsafe.Pointer(&buf[0])))
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") || from == own {
			continue
		}
		for at := from; at < to; at += uint64(len(buf)) - 32 {
			m, err := mem.ReadAt(buf[:min(uint64(len(buf)), to-at)], int64(at))
			if m == 0 || err != nil && err != io.EOF {
				break
			}
			n += count(buf[:m], masked)
		}
	}
	return n
}

func count(b, masked []byte) (n int) {
	for i := 0; i+len(masked) <= len(b); i++ {
		j := bytes.IndexByte(b[i:], masked[0]^mask)
		if j < 0 {
			return n
		}
		i += j
		if i+len(masked) > len(b) {
			return n
		}
		same := true
		for k := range masked {
			if b[i+k] != masked[k]^mask {
				same = false
				break
			}
		}
		if same {
			n++
		}
	}
	return n
}

func found(t *testing.T, s secretOf) (bytes, words int) {
	t.Helper()
	for range 3 { // what is freed by one collection is swept by the next
		runtime.GC()
	}
	debug.FreeOSMemory()
	return search(t, s.bytes), search(t, s.words)
}

// TestKeysLeaveTheProcess shakes hands with real keys, has their identities go, and looks for the keys in all of the
// process's memory: none is left in a build whose runtime wipes (make test-keys). In others the number itself is
// overwritten, which TestErasedKey sees to, and what the standard library made of it stays until its memory is used
// again: the test reports how much that is.
func TestKeysLeaveTheProcess(t *testing.T) {
	a := newAuthority(t, newClock().now)
	s := newStore(t, a, fixedRoots(a.pem()), a.now)
	secrets := use(t, s)
	for id, k := range secrets {
		if b, w := found(t, k); b+w == 0 {
			t.Errorf("%s: the search finds no key in use: it would find none in any case", id)
		}
	}
	for id := range secrets {
		s.Forget(id)
	}
	for id, k := range secrets {
		b, w := found(t, k)
		t.Logf("%s: %d copies as bytes, %d as words (the runtime wipes: %v)", id, b, w, wipes)
		if b+w > 0 && wipes {
			t.Errorf("%s: %d copies of the key are still there", id, b+w)
		}
	}
}

// use makes certificates and handshakes in a goroutine that is gone afterwards, stack and all.
func use(t *testing.T, s *Store) map[mesh.Identity]secretOf {
	t.Helper()
	out := make(chan map[mesh.Identity]secretOf)
	go func() {
		client, err1 := s.ClientConfig(context.Background(), sa("client"), []string{sa("server").String()})
		server, err2 := s.ServerConfig(context.Background(), sa("server"))
		if err1 != nil || err2 != nil {
			t.Error(err1, err2)
			close(out)
			return
		}
		for range 20 {
			if r := handshake(t, "tcp4", client, server); r.client != nil || r.server != nil {
				t.Errorf("%+v", r)
			}
		}
		out <- map[mesh.Identity]secretOf{sa("client"): s.secretOf(sa("client")), sa("server"): s.secretOf(sa("server"))}
	}()
	s.Want(sa("client"))
	s.Want(sa("server"))
	return <-out
}

func TestErasedKey(t *testing.T) {
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 the test looks at this very number
	scalar := k.priv.D.Bits()
	k.erase()
	for _, w := range scalar {
		if w != 0 {
			t.Fatal("the scalar was not overwritten")
		}
	}
	if _, err := k.Sign(nil, make([]byte, 32), nil); err == nil {
		t.Error("an erased key signs")
	}
}
