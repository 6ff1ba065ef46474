// SPDX-License-Identifier: Apache-2.0

package route

// Step is something Decide found out on its way, in the order of Query.Trace's calls.
type Step uint8

const (
	StepSourceUnknown Step = iota
	StepService
	StepWorkload
	StepExcepted
	StepInCluster
	StepOutsideCluster
	StepNoPort
	StepWaypoint
	StepUsable
	StepPending
	StepNotServed
	StepNoneReady
	StepOutsideMesh
	StepMeshPort
	StepCaptured
	StepBeforeEnrolled
	StepNotCaptured
	StepNoIdentity
)

var steps = [...]string{
	StepSourceUnknown:  "no workload is known for the source pod",
	StepService:        "the address is a service's",
	StepWorkload:       "the address is a workload's",
	StepExcepted:       "the address is link-local or excepted",
	StepInCluster:      "the address lies in the cluster and no object explains it",
	StepOutsideCluster: "the address lies outside the cluster",
	StepNoPort:         "the service has no such port",
	StepWaypoint:       "the service is bound to a waypoint",
	StepUsable:         "one of the usable endpoints is chosen at random",
	StepPending:        "no endpoint is usable: one that is not captured yet is chosen at random",
	StepNotServed:      "no ready endpoint serves the port",
	StepNoneReady:      "no endpoint is ready",
	StepOutsideMesh:    "the destination is outside the mesh by its own objects",
	StepMeshPort:       "the port belongs to the mesh",
	StepCaptured:       "the destination is captured: HBONE only",
	StepBeforeEnrolled: "the destination was ready before it was enrolled, and is not captured yet",
	StepNotCaptured:    "the destination is enrolled, and its node has not reported it captured",
	StepNoIdentity:     "the destination has no identity to expect",
}

// String is a sentence for people.
func (s Step) String() string { return steps[s] }
