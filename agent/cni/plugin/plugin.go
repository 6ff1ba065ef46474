// SPDX-License-Identifier: Apache-2.0

// Package plugin is Warren's chained CNI plugin. It makes no network: it has the agent capture the pod that the
// plugins before it connected, before any of its containers starts, and hands their result on as it came.
package plugin

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/warren-mesh/warren/mesh/cni"
)

const (
	// graceOutside is how long the agent is looked for when the pod could start without: a restart takes less, and a
	// pod may have asked for the mesh by itself, which only the agent knows.
	graceOutside = time.Second
	// delWithin bounds what is done for a pod that goes.
	delWithin = 2 * time.Second
	// maxInput bounds what is read of a DEL's configuration, in bytes.
	maxInput = 4 << 20
)

// versions of the specification: a list whose version is not among them starts no pod. Those of old, and a list without
// a version, are among them for that, though their lists did not know of prevResult.
var versions = version.PluginSupports(cni.SpecVersions()...)

// Main runs the plugin as the environment says (CNI_COMMAND), and returns the exit code.
func Main(about string) int {
	if os.Getenv("CNI_COMMAND") == "DEL" {
		del(os.Stdin, os.Getenv("CNI_ARGS"), os.Getenv("CNI_CONTAINERID"))
		return 0
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{Add: add, Check: check, GC: nothing, Status: status, Del: nothing}, versions, about)
	if err == nil {
		return 0
	}
	if perr := err.Print(); perr != nil {
		os.Stderr.WriteString(err.Error() + "\n")
	}
	return 1
}

func nothing(*skel.CmdArgs) error { return nil }

// status is asked before pods are started at all. The answer does not depend on the agent: "not available" makes the
// runtime call the whole node not ready, for the pods outside the mesh and for the agent's own as well.
func status(a *skel.CmdArgs) error {
	_, err := parse(a.StdinData)
	return err
}

// del tells the agent that a sandbox ends. It never fails: whatever holds up a pod's end holds up its node. What the
// agent does not hear, the broker sees.
func del(stdin io.Reader, args, container string) {
	ctx, cancel := context.WithTimeout(context.Background(), delWithin)
	defer cancel()
	input := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(stdin, maxInput))
		input <- b
	}()
	c := config{RunDir: cni.DefaultRunDir}
	select {
	case b := <-input:
		if got, err := parse(b); err == nil {
			c = got
		}
	case <-ctx.Done():
		return
	}
	r := cni.Request{Op: cni.Del, Pod: podOf(args), Container: container}
	if c.excluded(r.Pod.Namespace) {
		return
	}
	if r.Validate() == nil {
		_, _ = cni.Ask(ctx, c.RunDir, r, nil, 0)
	}
}
