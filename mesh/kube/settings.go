// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/mesh"
)

// settings is what the one MeshConfig came to.
type settings struct {
	config  *mesh.Config // on top of what the flags say, without what Nodes and ServiceCIDRs add; nil for the flags alone
	standIn bool         // config is what stands in for a MeshConfig that was never good
	// seen is the generation of the object as it is, applied that of the one in force.
	here          bool
	seen, applied int64
}

// MeshConfigState is how the cluster's MeshConfig stands. The zero value: there is none.
type MeshConfigState struct {
	// Here: the object exists.
	Here bool
	// Generation of the object, and of the one whose settings are in force.
	Generation, InForce int64
	// StandIn: no good one was seen, and the flags hold, with plaintext refused unless it says PERMISSIVE.
	StandIn bool
}

// MeshConfig returns how the cluster's MeshConfig stands.
func (t *Translator) MeshConfig() MeshConfigState {
	s := t.settings
	return MeshConfigState{Here: s.here, Generation: s.seen, InForce: s.applied, StandIn: s.standIn}
}

// flags is what holds without a MeshConfig.
func (t *Translator) flags() *mesh.Config {
	return &mesh.Config{
		TrustDomain: t.cfg.TrustDomain, RootNamespace: t.cfg.RootNamespace,
		ClusterCIDRs: t.cfg.ClusterCIDRs, Exceptions: t.cfg.Exceptions,
	}
}

func (t *Translator) putMeshConfig(k Key, o *v1alpha1.MeshConfig) (errs, partial field.ErrorList) {
	c, errs := ConfigFrom(o, t.flags())
	if len(errs) > 0 {
		return errs, nil
	}
	t.setSettings(settings{config: c, here: true, seen: o.Generation, applied: o.Generation})
	return nil, nil
}

// refuseMeshConfig leaves the last good one in force. Where there is none, nobody can say what was promised: the flags
// hold, and plaintext is refused unless the object can be read to say that it is not.
func (t *Translator) refuseMeshConfig(o *v1alpha1.MeshConfig) {
	if o.Name != v1alpha1.DefaultName {
		return // it is none that holds
	}
	s := t.settings
	if s.here, s.seen = true, o.Generation; s.config == nil || s.standIn {
		s.config, s.standIn = t.flags(), true
		s.config.MTLSStrict = o.Spec.MTLS.Mode != "" && o.Spec.MTLS.Mode != v1alpha1.MTLSPermissive
	}
	t.setSettings(s)
}

func (t *Translator) deleteMeshConfig(k Key) {
	if k.Name == v1alpha1.DefaultName {
		t.setSettings(settings{})
	}
}

// setSettings has everything looked at again that depends on what changes.
func (t *Translator) setSettings(s settings) {
	was := t.base()
	t.settings = s
	now := t.base()
	t.dirtyConfig = true
	if was.MTLSStrict != now.MTLSStrict {
		t.touchPeerAuth(t.cfg.RootNamespace)
	}
	if !equalAliases(was, now) {
		t.touchPrincipals()
	}
}

// base is the configuration without what Nodes and ServiceCIDRs add.
func (t *Translator) base() *mesh.Config {
	if t.settings.config != nil {
		return t.settings.config
	}
	return t.flags()
}

// meshConfigRemnant is a MeshConfig of which nothing but its mode of mutual TLS is read; one that can't be is none of
// those there are. A wrong word where the mode belongs may have been meant for it.
func meshConfigRemnant(m metav1.ObjectMeta, j []byte) *v1alpha1.MeshConfig {
	var whole struct{ Spec json.RawMessage }
	var spec map[string]json.RawMessage
	_ = json.Unmarshal(j, &whole) // what is not there is not there
	readable := len(whole.Spec) == 0 || json.Unmarshal(whole.Spec, &spec) == nil
	o := &v1alpha1.MeshConfig{ObjectMeta: m}
	for name, mtls := range spec {
		if strings.EqualFold(name, "mtls") {
			var fields map[string]json.RawMessage
			readable = readable && name == "mtls" && json.Unmarshal(mtls, &fields) == nil && json.Unmarshal(mtls, &o.Spec.MTLS) == nil &&
				(len(fields) == 0 || o.Spec.MTLS.Mode != "")
		}
	}
	if !readable {
		o.Spec.MTLS.Mode = "unreadable"
	}
	return o
}
