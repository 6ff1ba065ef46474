// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Versions of what is built. The go.mod files below recipes/ name the same ones; a test compares them.
const (
	KubernetesVersion = "v1.36.3"
	GatewayVersion    = "v1.6.3"
	containerdVersion = "v2.3.7"
	runcVersion       = "v1.4.3"
	pluginsVersion    = "v1.9.1"
	corednsVersion    = "v1.15.0"
	istioVersion      = "v1.31.4"
)

//go:embed recipes
var recipeFiles embed.FS

//go:embed machine/*.go pause/*.go cmd/warren-testmachine/*.go
var ownFiles embed.FS

// recipe is one module to build from: its files and the programs that come out of it.
type recipe struct {
	name string
	// dir is the folder below recipes/ with go.mod.txt, go.sum.txt and sources; empty for programs of this module.
	dir      string
	programs []program
	// make runs instead of the compiler where a recipe is no program.
	make func(b *builder, src, out string) error
}

type program struct {
	out     string   // file name
	pkg     []string // package, or source files
	ldflags string
	tags    string
	seccomp bool // links libseccomp, so cgo
}

const strip = "-s -w"

func recipes() []recipe {
	plugin := func(at string) program {
		return program{out: path.Base(at), pkg: []string{"github.com/containernetworking/plugins/plugins/" + at},
			ldflags: strip + " -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=" + pluginsVersion}
	}
	containerd := func(name string) program {
		return program{out: name, pkg: []string{"github.com/containerd/containerd/v2/cmd/" + name},
			ldflags: strip + " -X github.com/containerd/containerd/v2/version.Version=" + containerdVersion}
	}
	own := func(dir string) program {
		return program{out: path.Base(dir), pkg: []string{"./" + dir}, ldflags: strip}
	}
	version := strings.Split(strings.TrimPrefix(KubernetesVersion, "v"), ".")
	const kubeVersion = " -X k8s.io/component-base/version."
	return []recipe{
		{name: "machine", programs: []program{own("cmd/warren-testmachine"), own("pause")}},
		{name: "crds", dir: "crds", make: copyCRDs},
		{name: "cni", dir: "containerd", programs: []program{plugin("main/bridge"), plugin("main/loopback"),
			plugin("ipam/host-local"), plugin("meta/portmap")}},
		{name: "runc", dir: "containerd", programs: []program{{out: "runc", pkg: []string{"github.com/opencontainers/runc"},
			ldflags: strip + " -X main.version=" + strings.TrimPrefix(runcVersion, "v"), tags: "seccomp", seccomp: true}}},
		{name: "containerd", dir: "containerd", programs: []program{containerd("containerd"), containerd("containerd-shim-runc-v2"), containerd("ctr")}},
		{name: "coredns", dir: "coredns", programs: []program{{out: "coredns", pkg: []string{"main.go"}, ldflags: strip}}},
		{name: "kube", dir: "kube", programs: []program{{out: "kube", pkg: []string{"main.go", "etcd.go"},
			ldflags: strip + kubeVersion + "gitVersion=" + KubernetesVersion + kubeVersion + "gitMajor=" + version[0] + kubeVersion + "gitMinor=" + version[1]}}},
	}
}

// files are the recipe's sources by their path in the module that is built.
func (r recipe) files() (map[string][]byte, error) {
	var from fs.FS = ownFiles
	if r.dir != "" {
		sub, err := fs.Sub(recipeFiles, "recipes/"+r.dir)
		if err != nil {
			return nil, fmt.Errorf("read recipe %s: %w", r.name, err)
		}
		from = sub
	}
	all := map[string][]byte{}
	err := fs.WalkDir(from, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(p, "_test.go") {
			return err
		}
		b, err := fs.ReadFile(from, p)
		all[strings.TrimSuffix(p, ".txt")] = b
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read recipe %s: %w", r.name, err)
	}
	if r.dir == "" {
		all["go.mod"] = []byte("module github.com/warren-mesh/warren/tests/cluster\n\ngo 1.26.0\n")
	}
	return all, nil
}

// key changes with everything that may change the outcome: sources, versions, flags, compiler, target.
func (r recipe) key(compiler string) (string, error) {
	files, err := r.files()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "layout 1\n%s\n%s\n%+v\n", r.name, compiler, r.programs)
	for _, name := range sortedKeys(files) {
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(files[name]))
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// write lays the sources out in dir.
func (r recipe) write(dir string) error {
	files, err := r.files()
	if err != nil {
		return err
	}
	for name, b := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return fmt.Errorf("write recipe %s: %w", r.name, err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			return fmt.Errorf("write recipe %s: %w", r.name, err)
		}
	}
	return nil
}
