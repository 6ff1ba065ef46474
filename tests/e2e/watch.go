// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watchPods waits until the pods with a label are as check wants them, which says what is missing, and returns them.
func (m *Mesh) watchPods(ctx context.Context, namespace, selector string, check func([]corev1.Pod) string) ([]corev1.Pod, error) {
	pods := m.Client().CoreV1().Pods(namespace)
	missing := "nothing heard yet"
	for {
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err == nil {
			if missing = check(list.Items); missing == "" {
				return list.Items, nil
			}
			// Whatever changes from here on is a reason to look again.
			err = m.nextChange(ctx, namespace, selector, list.ResourceVersion)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %s", ctx.Err(), missing)
		}
		if err != nil { // the API server may be away
			missing = err.Error()
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// nextChange waits for one event.
func (m *Mesh) nextChange(ctx context.Context, namespace, selector, since string) error {
	w, err := m.Client().CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: since})
	if err != nil {
		return err
	}
	defer w.Stop()
	select {
	case <-w.ResultChan():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Eventually tries until nothing is missing any more, and fails the test after the deadline. Pauses grow from 10 to
// 200 ms: what is looked at may be large, and others want the CPU.
func Eventually(t testing.TB, within time.Duration, what string, try func() (missing string)) {
	t.Helper()
	pause := 10 * time.Millisecond
	for end := time.Now().Add(within); ; time.Sleep(pause) {
		missing := try()
		if missing == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: after %v: %s", what, within, missing)
		}
		pause = min(pause*3/2, 200*time.Millisecond)
	}
}
