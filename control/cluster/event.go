// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Events about the Secret.
const (
	eventInvalid = "AuthorityInvalid"
	eventInOrder = "AuthorityInOrder"
	// maxMessage is the API's limit on an Event's message.
	maxMessage = 1024
)

// PublishProblem makes an Event about the authority's Secret when a problem appears, changes or passes.
func (b *Bundle) PublishProblem(ctx context.Context, problem error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	text, e := "", corev1.Event{Type: corev1.EventTypeNormal, Reason: eventInOrder, Message: "the authority's files are in order again"}
	if problem != nil {
		text = problem.Error()
		e = corev1.Event{Type: corev1.EventTypeWarning, Reason: eventInvalid, Message: text}
	}
	if _, leads := b.cfg.Term(); !leads || text == b.told {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret, err := b.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(b.cfg.Namespace).Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("tell about Secret %s/%s: %w", b.cfg.Namespace, SecretName, err)
	}
	e.ObjectMeta = metav1.ObjectMeta{GenerateName: SecretName + "-", Namespace: b.cfg.Namespace}
	e.InvolvedObject = corev1.ObjectReference{Kind: "Secret", APIVersion: "v1", Namespace: b.cfg.Namespace, Name: SecretName}
	if err == nil {
		e.InvolvedObject.UID = secret.UID
	}
	if len(e.Message) > maxMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxMessage-3], "") + "..."
	}
	now := metav1.Now()
	e.FirstTimestamp, e.LastTimestamp, e.Count = now, now, 1
	e.Source = corev1.EventSource{Component: "warren-control"}
	e.ReportingController, e.ReportingInstance = "warren.dev/warren-control", "warren-control"
	if err := b.core.Post().Namespace(b.cfg.Namespace).Resource("events").Body(&e).Do(ctx).Error(); err != nil {
		return fmt.Errorf("tell about Secret %s/%s: %w", b.cfg.Namespace, SecretName, err)
	}
	b.told = text
	return nil
}
