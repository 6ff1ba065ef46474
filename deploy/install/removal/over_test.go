// SPDX-License-Identifier: Apache-2.0

package removal

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	running = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended   = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	waiting = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
)

// ending is a node pod that is to end at a time, with containers in these states; none of no time.
func ending(at time.Time, states ...corev1.ContainerState) *corev1.Pod {
	p := partPod(nodeSet, "a")
	p.Spec.Containers = make([]corev1.Container, 2)
	if !at.IsZero() {
		p.DeletionTimestamp = &metav1.Time{Time: at}
	}
	for _, s := range states {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{State: s})
	}
	return p
}

func TestOver(t *testing.T) {
	now := time.Now()
	soon, before := now.Add(20*time.Second), now.Add(-time.Second)
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"it runs", ending(time.Time{}, running, running), false},
		{"its containers ended by themselves, and will start again", ending(time.Time{}, ended, ended), false},
		{"one container has ended", ending(soon, ended, running), false},
		{"one goes on after the grace", ending(before, ended, running), false},
		{"all have ended", ending(soon, ended, ended), true},
		{"it may be starting", ending(soon, waiting, waiting), false},
		{"one may be starting", ending(soon, ended, waiting), false},
		{"it never started", ending(before, waiting, waiting), true},
		{"nobody ever looked at it", ending(before), true},
		{"nobody has looked at it yet", ending(soon), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := over(tt.pod, now); got != tt.want {
				t.Errorf("over: %v, want %v", got, tt.want)
			}
		})
	}
}

// TestSandboxesThatCanNotEnd are what a broken CNI chain makes of node pods: the chain is repaired while they are still there.
func TestSandboxesThatCanNotEnd(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue))
	if err := c.Tracker().Add(ending(time.Now().Add(time.Minute), ended, ended)); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, c, false); err != nil {
		t.Fatal(err)
	}
	if got := sentTo(c); !slices.Equal(got, []string{"a"}) {
		t.Errorf("cleaned are %v", got)
	}
}

// TestNodePodsThatRun are waited for: what is cleaned before they have ended they would install again.
func TestNodePodsThatRun(t *testing.T) {
	c := installed(node("a", corev1.ConditionTrue))
	if err := c.Tracker().Add(ending(time.Now().Add(time.Minute), ended, running)); err != nil {
		t.Fatal(err)
	}
	_, _, err := runFor(t, time.Second, c, false)
	if err == nil || !strings.Contains(err.Error(), "missing: warren-node-a on a") {
		t.Errorf("got %v", err)
	}
	if got := sentTo(c); len(got) > 0 {
		t.Errorf("cleaned are %v", got)
	}
}
