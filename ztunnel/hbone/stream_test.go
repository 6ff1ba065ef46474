// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// pattern sends size random bytes in writes of random lengths and returns their hash.
func pattern(tb testing.TB, w io.Writer, seed uint64, size int) [32]byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	buf := make([]byte, 600<<10)
	hash := sha256.New()
	for size > 0 {
		most := len(buf)
		if rng.IntN(3) == 0 {
			most = 3000
		}
		n := min(1+rng.IntN(most), size)
		_, _ = source.Read(buf[:n])
		hash.Write(buf[:n])
		if _, err := w.Write(buf[:n]); err != nil {
			tb.Errorf("write: %v", err)
			break
		}
		size -= n
	}
	return [32]byte(hash.Sum(nil))
}

func sumOf(tb testing.TB, r io.Reader) (n int64, sum [32]byte) {
	hash := sha256.New()
	n, err := io.Copy(hash, readerOnly{r})
	if err != nil {
		tb.Errorf("read: %v", err)
	}
	return n, [32]byte(hash.Sum(nil))
}

func TestEchoExact(t *testing.T) {
	for _, streams := range []int{1, 8} {
		tun := newTunnel(t, Config{}, accepting(echo))
		var all sync.WaitGroup
		for i := range streams {
			all.Go(func() {
				s := tun.open(t)
				size := scaled(8 << 20)
				sent := make(chan [32]byte, 1)
				go func() {
					sent <- pattern(t, s, uint64(i), size)
					if err := s.CloseWrite(); err != nil {
						t.Error(err)
					}
				}()
				n, got := sumOf(t, s)
				if want := <-sent; got != want || n != int64(size) {
					t.Errorf("stream %d: %d of %d bytes came back, equal: %v", i, n, size, got == want)
				}
			})
		}
		all.Wait()
		eventually(t, "streams gone", func() bool { return tun.client.Streams() == 0 && tun.server.Streams() == 0 })
	}
}

func TestSmallMessages(t *testing.T) {
	tun := newTunnel(t, Config{}, accepting(echo))
	s := tun.open(t)
	got := make([]byte, 64)
	for i := range 1000 {
		message := bytes.Repeat([]byte{byte(i)}, 64)
		if _, err := s.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, message) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}
