// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/warren-mesh/warren/mesh/kube"
)

// settle is how old an empty file has to be to be taken at its word: a writer that does not rename empties
// it first.
const settle = time.Second

// file is what was last read of one manifest.
type file struct {
	stat    stat
	objects []*object
	// problem is about the file itself; its objects are then the last that could be read.
	problem *kube.Problem
}

// next reads the file again where it changed. f may be nil. Objects that did not change keep their pointer.
func (f *file) next(dir, path string, info stat, touched bool) *file {
	if f == nil {
		f = &file{}
	} else if f.stat == info && !touched {
		return f
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		name = path
	}
	n := &file{stat: info}
	data, err := readFile(path)
	switch {
	case err != nil:
		n.objects, n.problem = f.objects, &kube.Problem{Source: name, Err: err}
		n.stat = stat{} // look again next time
		return n
	case len(data) == 0 && len(f.objects) > 0 && time.Since(time.Unix(0, info.modified)).Abs() < settle:
		n.objects, n.stat = f.objects, stat{}
		return n
	}
	old := map[kube.Key]*object{}
	for _, o := range f.objects {
		old[o.key] = o
	}
	unreadable := false
	for _, d := range split(name, data) {
		o, ok := decode(d)
		if !ok {
			continue
		}
		if was := old[o.key]; was != nil && was.doc.line == d.line && bytes.Equal(was.doc.json, d.json) && d.err == nil {
			o = *was
			n.objects = append(n.objects, was)
		} else {
			n.objects = append(n.objects, &o)
		}
		if o.key == (kube.Key{}) {
			unreadable = true
			continue
		}
		delete(old, o.key)
	}
	if unreadable {
		// Nobody can tell which objects the unreadable part was: those that seem gone stay.
		for k, o := range old {
			if k != (kube.Key{}) {
				n.objects = append(n.objects, o)
			}
		}
	}
	return n
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read manifest: larger than %d bytes (split it)", maxFile)
	}
	return data, nil
}
