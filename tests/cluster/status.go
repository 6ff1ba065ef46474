// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status prints the machines with their services, and what the API server says about the nodes.
func (c *Cluster) Status(ctx context.Context, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tPID\tSERVICE\tSTATE\tRESTARTS\tLOG")
	for _, m := range c.machines() {
		services, err := m.Services(ctx)
		if err != nil {
			fmt.Fprintf(w, "%s\t-\t-\toff\t\t%s\n", m.Name, filepath.Join(m.Dir, "log"))
			continue
		}
		for _, s := range services {
			state := "running"
			if !s.Running {
				state = "stopped: " + s.Exit
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\n", m.Name, m.PID, s.Name, state, s.Restarts, c.log(m, s.Name))
		}
	}
	fmt.Fprintln(w, "\nNODE\tREADY\tADDRESSES\tPODS\tVERSION")
	nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		_ = w.Flush()
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		ready := "Unknown"
		for _, condition := range n.Status.Conditions {
			if condition.Type == "Ready" {
				ready = string(condition.Status)
			}
		}
		var addresses []string
		for _, a := range n.Status.Addresses {
			if a.Type == "InternalIP" {
				addresses = append(addresses, a.Address)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Name, ready, addresses, n.Spec.PodCIDRs, n.Status.NodeInfo.KubeletVersion)
	}
	return w.Flush()
}

// Kubectl prepares kubectl of the cluster's version.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.tools.path("kube", "kube"), append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

// Shell prepares an interactive shell with KUBECONFIG set and kubectl, of the cluster's version, first in PATH.
func (c *Cluster) Shell(ctx context.Context) (*exec.Cmd, error) {
	bin := filepath.Join(c.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, fmt.Errorf("prepare shell: %w", err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' kubectl \"$@\"\n", c.tools.path("kube", "kube"))
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(script), 0o755); err != nil {
		return nil, fmt.Errorf("prepare shell: %w", err)
	}
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	cmd := exec.CommandContext(ctx, shell)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "PATH="+bin+":"+os.Getenv("PATH"))
	return cmd, nil
}
