// SPDX-License-Identifier: Apache-2.0

// Package netns is the whole mesh on one machine, without Kubernetes: nodes and pods are network namespaces joined by
// veths, the objects are ordinary YAML in a directory, and Warren's binaries run in them as they do in production.
//
//	func TestMain(m *testing.M) { netns.Main(m) }
//
//	m := netns.New(t, netns.Options{})
//	m.Namespace("app", netns.Enrolled())
//	client := m.Node("a").Pod("client", netns.In("app"), netns.ServiceAccount("client"))
//	server := m.Node("b").Pod("server", netns.In("app"), netns.Labels("app", "echo"))
//	m.Service("echo", "app", map[string]string{"app": "echo"}, netns.TCP(80, 8080))
//	m.Up()                                     // Warren's processes; without it the mesh is plain
//	l, _ := server.Listen("tcp", ":8080")      // sockets of the pod's network namespace and cgroup
//	c, _ := client.Dial(t.Context(), "tcp", "echo.app:80")
//
// Everything is made by netlink and system calls below one cgroup and a directory, torn down after the test, and
// looked for afterwards: what is left is a failure that names it. It needs root.
package netns
