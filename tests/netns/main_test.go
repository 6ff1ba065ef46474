// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"flag"
	"fmt"
	"os"
	"syscall"
	"testing"
)

// crashVariable makes the test binary build a mesh and then end as if it had been killed.
const crashVariable = "WARREN_NETNS_TEST_CRASH"

// waiting is how many tests with t.Parallel run at once: those that wait most of their time, each with a mesh of its own.
const waiting = "6"

func TestMain(m *testing.M) {
	Init()
	if os.Getenv(crashVariable) != "" {
		crash()
	}
	flag.Parse()
	_ = flag.Set("test.parallel", waiting)
	Main(m)
}

// dying is a T for a process that won't see the end.
type dying struct{ T }

func (dying) Helper()                        {}
func (dying) Name() string                   { return "dying" }
func (dying) Cleanup(func())                 {}
func (dying) Failed() bool                   { return false }
func (dying) Logf(string, ...any)            {}
func (dying) Errorf(f string, args ...any)   { fmt.Printf(f+"\n", args...) }
func (d dying) Fatalf(f string, args ...any) { d.Errorf(f, args...); os.Exit(1) }

// crash prints the mesh's cgroup and directory and kills itself.
func crash() {
	m := New(dying{}, Options{})
	p := m.Node("a").Pod("client")
	if _, err := p.Listen("tcp", ":80"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("%s %s", m.cgroup, m.dir)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
