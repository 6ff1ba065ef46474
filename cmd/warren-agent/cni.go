// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/warren-mesh/warren/agent"
	"github.com/warren-mesh/warren/agent/cni"
	protocol "github.com/warren-mesh/warren/mesh/cni"
)

// cniFlags are those of the CNI plugin's installation. The function returned takes them over, once they are parsed.
func cniFlags(fs *flag.FlagSet, cfg *agent.Config) func(excluded []string) error {
	i := &cfg.Install
	fs.StringVar(&i.BinDir, "cni-bin-dir", "", "directory of the runtime's CNI plugins, usually /opt/cni/bin, to install warren-cni in; empty: off")
	fs.StringVar(&i.ConfDir, "cni-conf-dir", "", "directory of the runtime's network configurations, usually /etc/cni/net.d, to chain warren-cni in; empty: off")
	fs.StringVar(&i.Plugin, "cni-plugin", "", "the warren-cni to install; default: the one beside this binary")
	fs.DurationVar(&i.Entry.Deadline, "cni-deadline", protocol.DefaultDeadline, "how long a pod's start may wait for its capture")
	return func(excluded []string) error {
		if i.Entry.Deadline <= 0 || i.Entry.Deadline > protocol.MaxWait {
			return fmt.Errorf("--cni-deadline: %v is not between 0 and %v", i.Entry.Deadline, protocol.MaxWait)
		}
		if i.Plugin == "" {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find %s: %w (name it by --cni-plugin)", protocol.PluginName, err)
			}
			i.Plugin = filepath.Join(filepath.Dir(self), protocol.PluginName)
		}
		if i.On() && cfg.StateDir == "" {
			return errors.New("--cni-conf-dir needs --state-dir: without it no pod would start while the agent is away")
		}
		i.Log = cfg.Log
		i.Entry.RunDir, i.Entry.StateDir, i.Entry.ExcludedNamespaces = cfg.RunDir, cfg.StateDir, excluded
		return nil
	}
}

// removeCNI is `warren-agent remove-cni`: it takes the plugin off a node whose agent has ended.
func removeCNI(args []string) error {
	fs := flag.NewFlagSet("warren-agent remove-cni", flag.ContinueOnError)
	bin := fs.String("cni-bin-dir", "", "as it was given to the agent")
	conf := fs.String("cni-conf-dir", "", "as it was given to the agent")
	state := fs.String("state-dir", "", "as it was given to the agent, to remove it with all that is in it; empty: it stays")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return errors.Join(
		cni.Remove(*bin, *conf, slog.New(slog.NewTextHandler(os.Stderr, nil))),
		os.RemoveAll(*state), // "" is nothing
	)
}
