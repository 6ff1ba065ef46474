// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Datapath is a node's programs in the kernel. All methods are safe for concurrent use, and none after Close.
type Datapath struct {
	cfg     Config
	log     *slog.Logger
	dir     string // pins
	objects *objects
	exempts *ebpf.Map // also in maps; set once, so that Exempt needs no lock

	mu    sync.Mutex // for all below
	maps  map[string]*ebpf.Map
	progs map[string]*ebpf.Program
	links map[string]link.Link
	pods  map[uint64]*attachment
}

// Load attaches the node's programs, or takes over what an earlier process pinned and updates it in place. A first
// load becomes visible below BPFFS all at once. A kernel that lacks something gives *MissingFeatureError.
// Only one process at a time may hold a node's Datapath.
func Load(cfg Config) (_ *Datapath, err error) {
	if err := errors.Join(cfg.Validate(), Probe()); err != nil {
		return nil, err
	}
	objs, err := parseObjects()
	if err != nil {
		return nil, err
	}
	d := &Datapath{
		cfg: cfg, log: cfg.logger(), dir: pinDir(cfg.BPFFS), objects: objs,
		maps: map[string]*ebpf.Map{}, progs: map[string]*ebpf.Program{},
		links: map[string]link.Link{}, pods: map[uint64]*attachment{},
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := errors.Join(sweep(pinRoot(cfg.BPFFS)), sweep(filepath.Join(d.dir, dirPods))); err != nil {
		return nil, fmt.Errorf("sweep unfinished pins: %w", err)
	}
	if err := d.loadNode(); err != nil {
		return nil, err
	}
	if err := d.adoptPods(); err != nil {
		return nil, err
	}
	return d, nil
}

// loadNode brings maps and cgroup programs to this version, in the pins' directory or, if there is none, in a new
// one that then takes its name.
func (d *Datapath) loadNode() error {
	dir, again := d.dir, pinned(d.dir)
	if !again {
		dir += unfinished
	}
	for _, sub := range []string{dirMaps, dirLinks, dirPods} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("make pins' directory: %w", err)
		}
	}
	for name, spec := range d.objects.shared {
		m, err := openMap(filepath.Join(dir, dirMaps, name), spec)
		if err != nil {
			return err
		}
		d.maps[name] = m
	}
	d.exempts = d.maps[mapExempts]
	for _, spec := range d.objects.node {
		progs, err := d.objects.loadPrograms(spec, d.maps)
		if err != nil {
			return err
		}
		maps.Copy(d.progs, progs)
	}
	for _, h := range hooks {
		l, err := d.attachHook(h, dir, d.progs[h.program])
		if err != nil {
			return err
		}
		if l != nil {
			d.links[h.name] = l
		}
	}
	if !again {
		if err := os.Rename(dir, d.dir); err != nil {
			return fmt.Errorf("publish pins: %w", err)
		}
	}
	d.log.Info("kernel programs attached", "cgroup", d.cfg.Cgroup, "pins", d.dir, "again", again)
	return nil
}

// adoptPods opens what is pinned for pods.
func (d *Datapath) adoptPods() error {
	entries, err := os.ReadDir(filepath.Join(d.dir, dirPods))
	if err != nil {
		return fmt.Errorf("list pinned pods: %w", err)
	}
	for _, e := range entries {
		cookie, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			return fmt.Errorf("list pinned pods: unexpected %s", e.Name())
		}
		a, err := openAttachment(d.podDir(cookie), d.objects.lookup.Maps[mapListeners])
		if err != nil {
			return fmt.Errorf("adopt pod %d: %w", cookie, err)
		}
		d.pods[cookie] = a
	}
	return nil
}

// Close lets go of everything and leaves it in place: programs go on to run from their pins, captured connections
// wait for, or are refused by, whoever holds the listeners.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, a := range d.pods {
		errs = append(errs, a.close())
	}
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	for _, p := range d.progs {
		errs = append(errs, p.Close())
	}
	for _, m := range d.maps {
		errs = append(errs, m.Close())
	}
	clear(d.pods)
	clear(d.links)
	clear(d.progs)
	clear(d.maps)
	return errors.Join(errs...)
}

// Remove detaches and unpins everything and closes the Datapath: no trace is left, and traffic of all pods goes
// direct.
func (d *Datapath) Remove() error {
	var errs []error
	for cookie := range d.attached() {
		errs = append(errs, d.DetachPod(cookie))
	}
	d.mu.Lock()
	for i := len(hooks) - 1; i >= 0; i-- {
		h := hooks[i]
		if l := d.links[h.name]; l != nil {
			errs = append(errs, drop(l, d.linkPin(d.dir, h)))
			delete(d.links, h.name)
		}
	}
	d.mu.Unlock()
	errs = append(errs, d.Close(), os.RemoveAll(d.dir))
	if err := os.Remove(pinRoot(d.cfg.BPFFS)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Info("pins of another version stay", "dir", pinRoot(d.cfg.BPFFS))
	}
	return errors.Join(errs...)
}

func (d *Datapath) linkPin(dir string, h hook) string { return filepath.Join(dir, dirLinks, h.name) }

func (d *Datapath) podDir(cookie uint64) string {
	return filepath.Join(d.dir, dirPods, strconv.FormatUint(cookie, 10))
}

func (d *Datapath) attached() map[uint64]*attachment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.pods)
}
