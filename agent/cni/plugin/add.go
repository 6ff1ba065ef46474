// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/warren-mesh/warren/mesh/cni"
)

// add lets a pod start: once it is captured, or as soon as it is known to be outside the mesh.
func add(a *skel.CmdArgs) error {
	c, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	pod := podOf(a.Args)
	// No pod of Kubernetes, or one that is never captured: nobody need be asked.
	if pod.Namespace != "" && !c.excluded(pod.Namespace) {
		if err := capture(c, pod, a); err != nil {
			return err
		}
	}
	return pass(c)
}

// pass prints the result of the plugin before, as it came.
func pass(c config) error {
	if len(c.PrevResult) == 0 {
		return refuse(types.ErrInvalidNetworkConfig, cni.Pod{}, errors.New("no prevResult"), "warren-cni is chained behind the plugin that connects the pod")
	}
	_, err := os.Stdout.Write(append(c.PrevResult, '\n'))
	return err
}

// capture waits until the agent says that the pod is captured or outside.
func capture(c config, pod cni.Pod, a *skel.CmdArgs) error {
	cached, cacheErr := cni.ReadNamespaces(c.StateDir)
	standing := cached.Of(pod.Namespace)
	if standing == cni.NamespaceExcluded {
		return nil
	}
	r, netns, err := announcement(c, pod, a)
	if err != nil && standing == cni.NamespaceOutside {
		return nil // what can't be captured need not be
	}
	if err != nil {
		return err
	}
	defer netns.Close()
	patience := time.Duration(c.Deadline)
	if standing == cni.NamespaceOutside {
		patience = min(graceOutside, patience)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Deadline))
	defer cancel()
	reply, err := cni.Ask(ctx, c.RunDir, r, netns, patience)
	switch {
	case err != nil && standing == cni.NamespaceOutside:
		return nil // as far as the agent knew when it was last here
	case err != nil:
		return noAgent(c, pod, standing, cacheErr, err)
	case reply.Result == cni.Captured, reply.Result == cni.Outside:
		return nil
	}
	return refuse(types.ErrTryAgainLater, pod, errors.New(reply.Error), "the kubelet tries again; the agent of this node says more in its log and at /debug/pods")
}

// announcement is what the agent is asked; the network namespace is the caller's to close.
func announcement(c config, pod cni.Pod, a *skel.CmdArgs) (cni.Request, *os.File, error) {
	addresses, err := c.addresses(a.IfName)
	if err != nil {
		return cni.Request{}, nil, refuse(types.ErrInvalidNetworkConfig, pod, err, "warren-cni belongs behind the cluster's own network plugin in its conflist")
	}
	r := cni.Request{Op: cni.Add, Pod: pod, Container: a.ContainerID, Addresses: addresses}
	if err := r.Validate(); err != nil {
		return cni.Request{}, nil, refuse(types.ErrInvalidEnvironmentVariables, pod, err, "")
	}
	netns, err := os.Open(a.Netns)
	if err != nil {
		return cni.Request{}, nil, refuse(types.ErrInvalidEnvironmentVariables, pod, fmt.Errorf("open CNI_NETNS: %w", err), "")
	}
	return r, netns, nil
}

// noAgent explains why a pod waits for the agent.
func noAgent(c config, pod cni.Pod, standing cni.Standing, cacheErr, err error) error {
	why := fmt.Sprintf("namespace %s is in the mesh", pod.Namespace)
	if standing == cni.NamespaceUnknown {
		why = fmt.Sprintf("whether namespace %s is in the mesh is not known", pod.Namespace)
		if cacheErr != nil {
			why += fmt.Sprintf(" (%v)", cacheErr)
		}
	}
	cause := fmt.Errorf("%s, and warren-agent did not answer within %v (%w)", why, time.Duration(c.Deadline), err)
	return refuse(types.ErrTryAgainLater, pod, cause, "see that the warren-node pod of this node runs; the kubelet tries again")
}

// check compares with what the agent says. What no agent can say is no failure of the pod.
func check(a *skel.CmdArgs) error {
	c, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	r := cni.Request{Op: cni.Check, Pod: podOf(a.Args), Container: a.ContainerID}
	if r.Pod.Namespace == "" || c.excluded(r.Pod.Namespace) {
		return nil
	}
	if err := r.Validate(); err != nil {
		return refuse(types.ErrInvalidEnvironmentVariables, r.Pod, err, "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), delWithin)
	defer cancel()
	reply, err := cni.Ask(ctx, c.RunDir, r, nil, 0)
	if err == nil && reply.Result == cni.Failed {
		return refuse(types.ErrTryAgainLater, r.Pod, errors.New(reply.Error), "")
	}
	return nil
}

// refuse is the plugin's error: the pod, the cause, and what to do.
func refuse(code uint, pod cni.Pod, cause error, remedy string) error {
	message := "warren: "
	if pod.Namespace != "" {
		message = fmt.Sprintf("warren: pod %s not started: ", pod)
	}
	message += cause.Error()
	if remedy != "" {
		message += " (" + remedy + ")"
	}
	return types.NewError(code, message, "")
}
