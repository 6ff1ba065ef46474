// SPDX-License-Identifier: Apache-2.0

package informers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
	"github.com/warren-mesh/warren/mesh/kube/apiserver"
)

// callTimeout bounds one request to the API server.
const callTimeout = 10 * time.Second

// Publisher makes results visible on the API: annotations, conditions, Events. Safe for concurrent use.
type Publisher struct {
	component, node string
	log             *slog.Logger
	core            rest.Interface
	metadata        metadata.Interface
	dynamic         dynamic.Interface
}

var _ kube.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher. component ("warren-agent") and node ("" for none) sign its Events.
func NewPublisher(client *apiserver.Client, component, node string, log *slog.Logger) (*Publisher, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	core, err1 := client.Group(corev1.SchemeGroupVersion)
	meta, err2 := client.Metadata()
	dyn, err3 := client.Dynamic()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("publish on the API: %w", err)
	}
	return &Publisher{component: component, node: node, log: log, core: core, metadata: meta, dynamic: dyn}, nil
}

// PublishCaptured sets the pod's annotation; "" removes it. A pod that is gone, or has another uid by now, has
// nothing to be told.
func (p *Publisher) PublishCaptured(ctx context.Context, pod mesh.Name, podUID, value string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var annotation any // null removes it
	if value != "" {
		annotation = value
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": podUID, "annotations": map[string]any{kube.KeyCaptured: annotation},
	}})
	if err != nil {
		return fmt.Errorf("publish capture of %s: %w", pod, err)
	}
	_, err = p.metadata.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(pod.Namespace).
		Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: p.component})
	switch {
	case apierrors.IsNotFound(err), otherUID(err):
		return nil
	case err != nil:
		return fmt.Errorf("publish capture of %s: %w", pod, err)
	}
	if e, ok := captureEvent(value); ok {
		p.event(ctx, corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(podUID)}, e)
	}
	return nil
}

// otherUID reports whether a patch was refused because the object has another uid than it names.
func otherUID(err error) bool {
	if apierrors.IsConflict(err) { // also the word for a pod that others write to faster than the server can merge
		return !strings.Contains(err.Error(), "the object has been modified")
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

// event is what an Event says.
type event struct{ kind, reason, message string }

// captureEvent tells the pod's owner what happened. That a pod is left alone because nobody asked for the mesh,
// or the objects show why, is no event.
func captureEvent(value string) (event, bool) {
	switch value {
	case kube.CapturedTrue:
		return event{corev1.EventTypeNormal, "Captured", "new connections of this pod go through the mesh"}, true
	case "", kube.HostNetwork, kube.ExcludedNamespace, kube.OptedOut, kube.NotEnrolled, kube.NamespaceUnknown, kube.EnrolmentUnreadable:
		return event{}, false
	}
	return event{corev1.EventTypeWarning, "NotCaptured", "this pod is not in the mesh: " + value}, true
}

// PublishCondition sets the condition on objects that have conditions, and tells of it in an Event on others.
func (p *Publisher) PublishCondition(ctx context.Context, object string, c kube.Condition) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	k, key, err := parseObject(object)
	if err != nil {
		return fmt.Errorf("publish condition: %w", err)
	}
	ns, name := split(key)
	if k.conditions {
		err = p.setCondition(ctx, k, ns, name, c)
	} else {
		err = p.tellCondition(ctx, k, ns, name, c)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("publish condition of %s: %w", object, err)
	}
	return nil
}

// ForgetCondition has nothing to do: a condition goes with its object.
func (p *Publisher) ForgetCondition(context.Context, string, string) error { return nil }

// parseObject undoes kube.Key.String.
func parseObject(object string) (kind, string, error) {
	name, key, ok := strings.Cut(object, " ")
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if !ok || i < 0 || key == "" {
		return kind{}, "", fmt.Errorf("%q is no object of a kind that is watched", object)
	}
	return kinds[i], key, nil
}

// conditionTries is how often a condition is written again when somebody else wrote meanwhile.
const conditionTries = 5

func (p *Publisher) setCondition(ctx context.Context, k kind, ns, name string, c kube.Condition) error {
	objects := p.dynamic.Resource(k.resource).Namespace(ns)
	for try := 1; ; try++ {
		o, err := objects.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if changed, err := mergeCondition(o, k.conditionPrefix, c, time.Now()); err != nil || !changed {
			return err
		}
		_, err = objects.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: p.component})
		if !apierrors.IsConflict(err) || try == conditionTries {
			return err
		}
	}
}

// mergeCondition puts the condition among the object's others, and reports whether that changed anything.
func mergeCondition(o *unstructured.Unstructured, prefix string, c kube.Condition, now time.Time) (bool, error) {
	list, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil {
		return false, fmt.Errorf("read status.conditions: %w", err)
	}
	status := "False"
	if c.Status {
		status = "True"
	}
	ours := prefix + c.Type
	next := map[string]any{
		"type": ours, "status": status, "reason": c.Reason, "message": c.Message,
		"lastTransitionTime": now.UTC().Format(time.RFC3339),
	}
	if c.ObservedGeneration != 0 {
		next["observedGeneration"] = c.ObservedGeneration
		if err := unstructured.SetNestedField(o.Object, c.ObservedGeneration, "status", "observedGeneration"); err != nil {
			return false, err
		}
	}
	i := slices.IndexFunc(list, func(v any) bool { m, ok := v.(map[string]any); return ok && m["type"] == ours })
	if i < 0 {
		list = append(list, next)
	} else {
		old := list[i].(map[string]any)
		message, _ := old["message"].(string)
		generation, _, _ := unstructured.NestedInt64(old, "observedGeneration")
		if old["status"] == status && old["reason"] == c.Reason && message == c.Message && generation == c.ObservedGeneration {
			return false, nil
		}
		if old["status"] == status && old["lastTransitionTime"] != nil {
			next["lastTransitionTime"] = old["lastTransitionTime"]
		}
		list[i] = next
	}
	return true, unstructured.SetNestedSlice(o.Object, list, "status", "conditions")
}

// tellCondition makes an Event: its object's uid is what `kubectl describe` finds it by. Kinds in which an API server of
// today takes nothing that we don't may not be read; there the Event goes without.
func (p *Publisher) tellCondition(ctx context.Context, k kind, ns, name string, c kube.Condition) error {
	about := corev1.ObjectReference{Kind: k.name, APIVersion: k.resource.GroupVersion().String(), Namespace: ns, Name: name}
	m, err := p.metadata.Resource(k.resource).Namespace(ns).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		about.UID = m.UID
	case !apierrors.IsForbidden(err):
		return err
	}
	e := event{corev1.EventTypeNormal, c.Reason, c.Message}
	if !c.Status || c.Reason == kube.ReasonPartial {
		e.kind = corev1.EventTypeWarning
	}
	if e.message == "" {
		e.message = "in force as written"
	}
	return p.createEvent(ctx, about, e)
}

// event tells of something that has been published in another form already: failing to is no failure.
func (p *Publisher) event(ctx context.Context, about corev1.ObjectReference, e event) {
	if err := p.createEvent(ctx, about, e); err != nil && ctx.Err() == nil {
		p.log.Debug("event not created", "about", about.Namespace+"/"+about.Name, "reason", e.reason, "err", err)
	}
}

func (p *Publisher) createEvent(ctx context.Context, about corev1.ObjectReference, e event) error {
	ns := about.Namespace
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	now := metav1.Now()
	return p.core.Post().Namespace(ns).Resource("events").Body(&corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "warren-", Namespace: ns},
		InvolvedObject: about,
		Type:           e.kind, Reason: e.reason, Message: truncate(e.message, maxMessage),
		Source:         corev1.EventSource{Component: p.component, Host: p.node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		ReportingController: "warren.dev/" + p.component, ReportingInstance: p.component + "-" + p.node,
	}).Do(ctx).Error()
}

// maxMessage is the API's limit on an Event's message.
const maxMessage = 1024

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}
