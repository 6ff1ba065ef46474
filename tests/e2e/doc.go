// SPDX-License-Identifier: Apache-2.0

// Package e2e tests Warren where it runs: on a real Kubernetes (tests/cluster) with Warren installed by its chart. All
// tests of a run share one cluster, and each has namespaces of its own:
//
//	func TestSomething(t *testing.T) {
//		m := Shared(t)                                    // beside other tests; Alone(t): with the mesh to itself
//		ns := m.Namespace(t, "something", Enrolled())     // deleted at the end
//		pods := ns.Deploy(App{Name: "client", Node: "n1"}, App{Name: "server", Node: "n2"})
//		ns.Service(Service{Name: "server", Ports: []Port{{80, EchoPort}}})
//		a := pods[0].Talk("tcp4", "server:80", "hello")   // what the application in the pod says
//	}
//
// It needs root. WARREN_E2E_CLUSTER names the cluster ("e2e"). WARREN_E2E_KEEP=1 leaves it running with Warren on it,
// and the next run takes it over and loads what was changed since, if anything: images have names made of their content.
// WARREN_E2E_KEEP=as-is takes it over as it is. TestAPIServerAway has a cluster of its own, whose name ends in "-away", beside
// it; WARREN_E2E_OUTAGE=2m shortens its six minutes while one works on it.
package e2e
