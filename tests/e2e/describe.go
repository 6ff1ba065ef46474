// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// describe writes what helps to understand a failed test: its namespace, and what Warren's logs say about that and
// about troubles since it began.
func (m *Mesh) describe(ctx context.Context, w io.Writer, namespace string, since time.Time) {
	fmt.Fprintf(w, "=== namespace %s\n", namespace)
	m.kubectl(ctx, w, "get", "pods,services", "-n", namespace, "-o", "wide")
	m.kubectl(ctx, w, "get", "pods", "-n", namespace, "-o",
		`jsonpath={range .items[*]}{.metadata.name} captured={.metadata.annotations.warren\.dev/captured}{"\n"}{end}`)
	m.kubectl(ctx, w, "get", "events", "-n", namespace, "--sort-by=.lastTimestamp")
	m.logs(ctx, w, namespace, since, func(string) bool { return true })
	m.kubectl(ctx, w, "get", "pods", "-n", system, "-o", "wide")
	m.logs(ctx, w, system, since, func(line string) bool {
		return strings.Contains(line, namespace) || strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")
	})
}

// describeSystem writes what became of Warren's own pods.
func (m *Mesh) describeSystem(ctx context.Context, w io.Writer) {
	m.kubectl(ctx, w, "get", "pods", "-n", system, "-o", "wide")
	m.kubectl(ctx, w, "get", "events", "-n", system, "--sort-by=.lastTimestamp")
	m.logs(ctx, w, system, time.Now().Add(-5*time.Minute), func(string) bool { return true })
}

func (m *Mesh) kubectl(ctx context.Context, w io.Writer, args ...string) {
	out, err := m.Kubectl(ctx, args...).CombinedOutput()
	fmt.Fprintf(w, "--- kubectl %s\n%s", strings.Join(args, " "), out)
	if err != nil {
		fmt.Fprintln(w, err)
	}
}

// logs writes the last lines of each container's log that interest.
func (m *Mesh) logs(ctx context.Context, w io.Writer, namespace string, since time.Time, interests func(line string) bool) {
	list, err := m.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	from := metav1.NewTime(since)
	for _, p := range list.Items {
		for _, c := range p.Status.ContainerStatuses {
			for _, previous := range []bool{false, true} {
				if previous && c.RestartCount == 0 {
					continue
				}
				o := &corev1.PodLogOptions{Container: c.Name, Previous: previous, SinceTime: &from}
				b, err := m.Client().CoreV1().Pods(namespace).GetLogs(p.Name, o).DoRaw(ctx)
				fmt.Fprintf(w, "--- log of %s/%s %s (previous: %v, restarts: %d)\n", namespace, p.Name, c.Name, previous, c.RestartCount)
				lines := slices.DeleteFunc(strings.SplitAfter(string(b), "\n"), func(line string) bool { return !interests(line) })
				fmt.Fprint(w, strings.Join(lines[max(0, len(lines)-lastLines):], ""))
				if err != nil {
					fmt.Fprintln(w, err)
				}
			}
		}
	}
}

// lastLines of a container are told.
const lastLines = 60
