// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

//go:embed manifests/coredns.yaml
var corednsManifest string

// istioGroups are the groups of Istio's definitions that Warren reads.
var istioGroups = []string{"networking.istio.io", "security.istio.io"}

// loadSystemImages loads what every node runs.
func (c *Cluster) loadSystemImages(ctx context.Context) error {
	for _, i := range []Image{Binary(pauseRef, c.tools.path("machine", "pause")), Binary(corednsRef, c.tools.path("coredns", "coredns"))} {
		if err := c.LoadImage(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// installCRDs applies the Gateway API (experimental channel) and those of Istio's definitions that Warren reads.
func (c *Cluster) installCRDs(ctx context.Context) error {
	files, err := filepath.Glob(c.tools.path("crds", "*.yaml"))
	if err != nil {
		return fmt.Errorf("find custom resource definitions: %w", err)
	}
	var docs []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read custom resource definitions: %w", err)
		}
		objects, err := decode(string(b))
		if err != nil {
			return err
		}
		for _, o := range objects {
			if _, group, _ := strings.Cut(o.GetName(), "."); strings.HasSuffix(group, ".istio.io") && group != istioGroups[0] && group != istioGroups[1] {
				continue
			}
			doc, err := yaml.Marshal(o.Object)
			if err != nil {
				return fmt.Errorf("encode %s: %w", o.GetName(), err)
			}
			docs = append(docs, string(doc))
		}
	}
	var wait sync.WaitGroup
	errs := make([]error, len(docs))
	for i, doc := range docs {
		wait.Go(func() { errs[i] = c.Apply(ctx, doc) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// networkNodes gives each node the CNI configuration of the addresses the controller-manager allocated to it.
func (c *Cluster) networkNodes(ctx context.Context) error {
	for _, n := range c.nodes {
		for len(n.podCIDRs) < 2 {
			o, err := c.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
			if err == nil {
				n.podCIDRs = nil
				for _, s := range o.Spec.PodCIDRs {
					p, err := netip.ParsePrefix(s)
					if err != nil {
						return fmt.Errorf("read pod addresses of node %s: %w", n.Name, err)
					}
					n.podCIDRs = append(n.podCIDRs, p)
				}
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for node %s to have pod addresses: %w (kubelet's log: %s)", n.Name, errors.Join(ctx.Err(), err), c.log(n.Machine, "kubelet"))
			case <-time.After(50 * time.Millisecond):
			}
		}
		// containerd overlooks a file that is moved into the directory from another one.
		const write = `set -e; d=/etc/cni/net.d; mkdir -p $d; [ -e $d/10-pods.conflist ] || { cat > $d/.new; mv $d/.new $d/10-pods.conflist; }`
		if _, err := n.Run(ctx, strings.NewReader(conflist(n.podCIDRs)), "sh", "-c", write); err != nil {
			return fmt.Errorf("write CNI configuration: %w", err)
		}
	}
	return c.routePods(ctx)
}

func (c *Cluster) installDNS(ctx context.Context) error {
	manifest := strings.NewReplacer("IMAGE", corednsRef, "DNS4", dns4.String(), "DNS6", `"`+dns6.String()+`"`,
		"REPLICAS", fmt.Sprint(min(2, len(c.nodes))), "DOMAIN", clusterDomain).Replace(corednsManifest)
	return c.Apply(ctx, manifest)
}
