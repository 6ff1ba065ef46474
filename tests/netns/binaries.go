// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

var binaries = sync.OnceValues(buildBinaries)

// Binaries builds Warren's binaries into build/bin, once per process, and returns that directory. WARREN_BIN names
// another one, whose binaries are taken as they are.
func Binaries() (string, error) { return binaries() }

func (o Options) binDirectory() (string, error) {
	if o.Binaries != "" {
		return filepath.Abs(o.Binaries)
	}
	return binDirectory()
}

// binDirectory is where Binaries builds, made if need be.
func binDirectory() (string, error) {
	if dir := os.Getenv("WARREN_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "build", "bin")
	return bin, os.MkdirAll(bin, 0o755)
}

func buildBinaries() (string, error) {
	bin, err := binDirectory()
	if err != nil || os.Getenv("WARREN_BIN") != "" {
		return bin, err
	}
	root := filepath.Dir(filepath.Dir(bin))
	mains, err := filepath.Glob(filepath.Join(root, "cmd", "warren*"))
	if err != nil || len(mains) == 0 {
		return bin, err
	}
	// Test binaries of several packages run side by side; one builds, the others find it done.
	lock, err := os.Create(filepath.Join(bin, ".lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	return bin, goBuild(root, bin, mains)
}

func goBuild(root, bin string, mains []string) error {
	slow := time.AfterFunc(3*time.Second, func() {
		fmt.Fprintln(os.Stderr, "building Warren's binaries (about three minutes with cold caches)")
	})
	defer slow.Stop()
	args := []string{"build", "-o", bin + "/"}
	for _, m := range mains {
		args = append(args, "./cmd/"+filepath.Base(m))
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build Warren's binaries: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// moduleRoot is the directory of go.mod, upwards from the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no go.mod above the working directory (set WARREN_BIN to the directory of built binaries)")
}
