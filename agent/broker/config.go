// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"errors"
	"log/slog"
	"time"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// Config is what the command line says. Zero values take the default where one is named.
type Config struct {
	RunDir        string            // of the unix sockets; default /run/warren
	StateDir      string            // of the desired captures; default RunDir/broker
	Proc          string            // procfs of the host, with /proc/sys/net writable; default /proc
	HostNetns     string            // the host's network namespace; default Proc/1/ns/net
	CgroupRoot    string            // default /sys/fs/cgroup
	BPFFS         string            // a mounted bpffs; default /sys/fs/bpf
	KubeletCgroup string            // whose connections are probes; KubeletAuto finds it, "" for none
	Files         map[string]string // what ztunnel may read: path by name
	Drain         time.Duration     // how long live tunnels of an un-enrolled pod may last; default 25 s
	Log           *slog.Logger      // default slog.Default()

	// ZtunnelUID is the user ztunnel runs as; RunDirGID the group of the run directory. 65532 both, except in
	// tests: no other process is served. There is no default.
	ZtunnelUID uint32
	RunDirGID  int
	// CreditRate and CreditBurst bound the dial sockets made for one pod. Default 20000 per second and 1012.
	CreditRate, CreditBurst int

	load func(Config, cgroups) (datapath, error) // in place of the kernel programs, in tests
}

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.RunDir, "/run/warren")
	def(&c.StateDir, c.RunDir+"/broker")
	def(&c.Proc, "/proc")
	def(&c.HostNetns, c.Proc+"/1/ns/net")
	def(&c.CgroupRoot, "/sys/fs/cgroup")
	def(&c.BPFFS, "/sys/fs/bpf")
	num(&c.CreditRate, creditRate)
	num(&c.CreditBurst, creditBurst)
	if c.Drain == 0 {
		c.Drain = 25 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	if c.Drain < 0 {
		return errors.New("the drain deadline is negative")
	}
	if c.CreditBurst < wire.MaxFDs {
		return errors.New("the credits do not allow one full batch of sockets")
	}
	return nil
}
