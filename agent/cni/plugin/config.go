// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/warren-mesh/warren/mesh/cni"
)

// config is the plugin's entry in the network's configuration, as the runtime hands it over. See cni.Entry for what
// the agent writes.
type config struct {
	CNIVersion         string          `json:"cniVersion"`
	RunDir             string          `json:"runDir"`
	StateDir           string          `json:"stateDir"`
	Deadline           duration        `json:"deadline"`
	ExcludedNamespaces []string        `json:"excludedNamespaces"`
	PrevResult         json.RawMessage `json:"prevResult"`
}

// duration is written as Go writes it: "15s".
type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v <= 0 {
		err = fmt.Errorf("%s is not positive", v)
	}
	*d = duration(v)
	return err
}

func parse(b []byte) (config, error) {
	c := config{RunDir: cni.DefaultRunDir, StateDir: cni.DefaultStateDir, Deadline: duration(cni.DefaultDeadline)}
	if err := json.Unmarshal(b, &c); err != nil {
		return config{}, types.NewError(types.ErrDecodingFailure, "warren: network configuration: "+err.Error(), "")
	}
	if c.CNIVersion == "" {
		c.CNIVersion = cni.SpecVersions()[0]
	}
	c.Deadline = min(c.Deadline, duration(cni.MaxWait))
	return c, nil
}

func (c config) excluded(namespace string) bool {
	return slices.Contains(c.ExcludedNamespaces, namespace)
}

// podOf reads CNI_ARGS: "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0;...".
func podOf(args string) (p cni.Pod) {
	for _, pair := range strings.Split(args, ";") {
		switch k, v, _ := strings.Cut(pair, "="); k {
		case "K8S_POD_NAMESPACE":
			p.Namespace = v
		case "K8S_POD_NAME":
			p.Name = v
		case "K8S_POD_UID":
			p.UID = v
		}
	}
	return p
}

// addresses are the pod's own in the result of the plugin before: the first of each family on the interface that the
// runtime asked for, or on any in the sandbox.
func (c config) addresses(ifName string) ([]netip.Addr, error) {
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return nil, errors.New("no prevResult: warren-cni is chained behind the plugin that connects the pod, and is none itself")
	}
	r, err := create.Create(c.CNIVersion, c.PrevResult)
	if err != nil {
		return nil, fmt.Errorf("prevResult: %w", err)
	}
	result, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, fmt.Errorf("prevResult: %w", err)
	}
	var out []netip.Addr
	for _, named := range []bool{true, false} {
		for _, ip := range result.IPs {
			a, ok := netip.AddrFromSlice(ip.Address.IP)
			a = a.Unmap()
			if !ok || a.IsLinkLocalUnicast() || !inSandbox(result, ip.Interface, ifName, named) {
				continue
			}
			if !slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
				out = append(out, a)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, errors.New("prevResult: it gives the pod no address")
}

// inSandbox reports whether an address is on an interface of the sandbox; many plugins don't say.
func inSandbox(r *types100.Result, index *int, ifName string, named bool) bool {
	if index == nil || *index < 0 || *index >= len(r.Interfaces) {
		return true
	}
	i := r.Interfaces[*index]
	return i.Sandbox != "" && (!named || i.Name == ifName)
}
