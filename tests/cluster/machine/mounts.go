// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// mountRoot gives pid 1 its own root: an overlay over this machine's, with kernel file systems mounted afresh.
func mountRoot(s Spec) error {
	root := filepath.Join(s.Dir, "root")
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, d), 0o755); err != nil {
			return fmt.Errorf("create machine directory: %w", err)
		}
	}
	options := "lowerdir=/,upperdir=" + filepath.Join(s.Dir, "upper") + ",workdir=" + filepath.Join(s.Dir, "work")
	if err := mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("%w (the state directory must lie on a file system that can be an overlay's upper layer, such as ext4 or xfs)", err)
	}
	for _, m := range []struct {
		kind, at, options string
		flags             uintptr
	}{
		{"proc", "proc", "", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"sysfs", "sys", "", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"tmpfs", "run", "mode=755", syscall.MS_NOSUID | syscall.MS_NODEV},
		{"tmpfs", "tmp", "mode=1777", syscall.MS_NOSUID | syscall.MS_NODEV},
		{"bpf", "sys/fs/bpf", "mode=700", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
	} {
		if err := mount(m.kind, filepath.Join(root, m.at), m.kind, m.flags, m.options); err != nil {
			return err
		}
	}
	if err := mountCgroups(filepath.Join(root, "sys/fs/cgroup"), s.Cgroups); err != nil {
		return err
	}
	if err := bind("/dev", filepath.Join(root, "dev"), syscall.MS_REC); err != nil {
		return err
	}
	// Not recursive: the new root itself is mounted below the machine's directory.
	for _, b := range append(s.Binds, Bind{s.Dir, s.Dir}) {
		if err := bind(b.From, filepath.Join(root, b.To), 0); err != nil {
			return err
		}
	}
	if err := maskSysctls(s, filepath.Join(root, "proc/sys")); err != nil {
		return err
	}
	return pivot(root)
}

// mountCgroups mounts this machine's hierarchies again; in the cgroup namespace their roots are the machine's own.
func mountCgroups(at string, cgroups []Cgroup) error {
	if len(cgroups) == 1 && cgroups[0].Controllers == "" {
		return mount("cgroup2", at, "cgroup2", 0, "")
	}
	if err := mount("cgroup", at, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, c := range cgroups {
		name := filepath.Base(cgroupAt(c))
		dir := filepath.Join(at, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("create %s: %w", dir, err)
		}
		kind, options := "cgroup", c.Controllers
		if c.Controllers == "" {
			kind = "cgroup2"
		} else if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := mount(kind, dir, kind, 0, options); err != nil {
			return err
		}
		for _, one := range strings.Split(name, ",") {
			if one != name {
				_ = os.Symlink(name, filepath.Join(at, one))
			}
		}
	}
	return nil
}

// cgroupAt is where a hierarchy lies inside the machine.
func cgroupAt(c Cgroup) string {
	switch name, named := strings.CutPrefix(c.Controllers, "name="); {
	case c.Controllers == "":
		return "/sys/fs/cgroup/unified"
	case named:
		return "/sys/fs/cgroup/" + name
	default:
		return "/sys/fs/cgroup/" + c.Controllers
	}
}

func cgroupsInside(cgroups []Cgroup) []Cgroup {
	if len(cgroups) == 1 && cgroups[0].Controllers == "" {
		return []Cgroup{{Dir: "/sys/fs/cgroup"}}
	}
	inside := make([]Cgroup, len(cgroups))
	for i, c := range cgroups {
		inside[i] = Cgroup{Dir: cgroupAt(c), Controllers: c.Controllers}
	}
	return inside
}

// maskSysctls makes /proc/sys read-only but for net/, which is the machine's own, and puts files of the machine's own
// over those that a kubelet insists on setting. A boot id of its own lets a kubelet see that its node was restarted.
func maskSysctls(s Spec, sys string) error {
	if err := bind(sys, sys, 0); err != nil {
		return err
	}
	if err := bind(filepath.Join(sys, "net"), filepath.Join(sys, "net"), 0); err != nil {
		return err
	}
	masked := map[string]string{"kernel/random/boot_id": uuid() + "\n"}
	for key, value := range s.Masked {
		masked[key] = value + "\n"
	}
	dir := filepath.Join(s.Dir, "sysctl")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	for key, value := range masked {
		file := filepath.Join(dir, strings.ReplaceAll(key, "/", "."))
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			return fmt.Errorf("write sysctl: %w", err)
		}
		if err := mount(file, filepath.Join(sys, key), "", syscall.MS_BIND, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return mount("", sys, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY|syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
}

func pivot(root string) error {
	old := filepath.Join(root, "run", "old-root")
	if err := os.Mkdir(old, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", old, err)
	}
	if err := syscall.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot to %s: %w", root, err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("pivot: %w", err)
	}
	if err := syscall.Unmount("/run/old-root", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	_ = os.Remove("/run/old-root")
	// Mounts a pod makes below a shared volume must reach the node and other pods, as with systemd.
	return mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
}

func bind(from, to string, flags uintptr) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if info.IsDir() {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	return mount(from, to, "", syscall.MS_BIND|flags, "")
}

func mount(from, to, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(from, to, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s %s at %s: %w", kind, from, to, err)
	}
	return nil
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
