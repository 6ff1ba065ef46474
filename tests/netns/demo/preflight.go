// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/warren-mesh/warren/bpf"
)

// Preflight looks for what the machine must have. On Debian it installs what is missing and can be; of the rest it says
// what to do. Programs in /usr/sbin are found even when PATH has no such directory, as is so for users who became root by su.
func Preflight(out io.Writer) error {
	path := os.Getenv("PATH")
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	var errs []error
	if _, err := exec.LookPath("nft"); err != nil {
		errs = append(errs, install(out, "nft", "nftables"))
	}
	if mounts, err := os.ReadFile("/proc/mounts"); err != nil || !strings.Contains(string(mounts), " cgroup2 ") {
		errs = append(errs, errors.New("no cgroup v2 is mounted (mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1)"))
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		errs = append(errs, errors.New("the kernel has no BTF, /sys/kernel/btf/vmlinux (it needs CONFIG_DEBUG_INFO_BTF, which Debian's kernels have)"))
	}
	if err := bpf.Probe(); err != nil {
		errs = append(errs, fmt.Errorf("%w\n(Debian 12: enable bookworm-backports, apt-get install -t bookworm-backports linux-image-amd64, reboot)", err))
	}
	return errors.Join(errs...)
}

// install installs a Debian package, or says that it is missing.
func install(out io.Writer, tool, pkg string) error {
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("no %s (install the package that has it, often called %s)", tool, pkg)
	}
	fmt.Fprintf(out, "demo: no %s; installing the package %s (about half a minute)\n", tool, pkg)
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-qq", "-y", "--no-install-recommends", pkg}} {
		cmd := exec.Command(apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w\n%s", filepath.Base(apt), strings.Join(args, " "), err, b)
		}
	}
	return nil
}
