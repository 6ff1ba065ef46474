// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"path/filepath"
	"reflect"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/kube"
)

// heldDir is where the agent keeps what it has the broker hold, below its state directory.
const heldDir = "held"

// held is a pod that the broker was told to hold.
type held struct {
	broker.Capture
	Boot string `json:"boot,omitempty"` // the run of the kernel that it was in
}

func (h *held) run() *string { return &h.Boot }

// holding keeps in files what the broker was told to hold: an agent that starts when the object of a pod is gone while its
// processes run, as after a deletion by force, would tell the broker of no such pod, and so have it sent to plaintext. So
// would one that starts while nobody can tell whether the pod is in the mesh.
type holding struct {
	files podFiles[held, *held]
	pods  map[string]*held // in files
}

// keep has a pod stay in the mesh that is held, while nobody can tell whether it belongs there: that it is captured may not
// be published yet, or the API server may have refused it, and an agent that starts then has no other word of it. The object of
// an earlier process may be from before the pod had addresses.
func (a *Agent) keep(p kube.LocalPod) kube.LocalPod {
	one := a.holding.pods[p.UID]
	if one == nil || p.Enrolled || !kube.Undecided(p.Reason) {
		return p
	}
	p.Enrolled, p.Reason, p.Running = true, "", one.Running
	if len(p.Addresses) == 0 && a.kept[p.UID] == nil {
		p.Addresses = one.Addresses
	}
	return p
}

// loadHeld reads what an earlier agent had held. It is called once, before the objects are looked at.
func (a *Agent) loadHeld() {
	h := &a.holding
	if a.cfg.StateDir != "" {
		h.files.dir = filepath.Join(a.cfg.StateDir, heldDir)
	}
	var err error
	if h.pods, err = h.files.load(); err != nil {
		a.cfg.Log.Warn("what an earlier agent had the broker hold", "err", err)
	}
}

// inherit takes up the pods that an earlier agent had held and that have no object, until the broker says what it holds
// of them. It is called once, when the objects have been looked at.
func (a *Agent) inherit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, c := range a.holding.pods {
		if a.pods[uid] != nil {
			continue // the object says what becomes of it
		}
		a.cfg.Log.Info("pod of an earlier agent, without an object", "pod", c.Namespace+"/"+c.Name, "uid", uid)
		a.pods[uid] = &tracked{inherited: true, pod: kube.LocalPod{
			UID: uid, Namespace: c.Namespace, Name: c.Name, ServiceAccount: c.ServiceAccount,
			Addresses: c.Addresses, Enrolled: true, Running: c.Running, Except: c.Except,
		}}
	}
}

// keepHeld brings the files up to date.
func (a *Agent) keepHeld() {
	h := &a.holding
	now := map[string]broker.Capture{}
	a.mu.Lock()
	for uid, t := range a.pods {
		if t.sent != nil && t.drainUntil.IsZero() {
			now[uid] = *t.sent
		}
	}
	a.mu.Unlock()
	for uid, c := range now {
		if old := h.pods[uid]; old != nil && reflect.DeepEqual(old.Capture, c) {
			continue
		}
		one := &held{Capture: c}
		if err := h.files.save(uid, one); err != nil {
			a.cfg.Log.Warn("the pod would leave the mesh if it ran on without its object when the next agent starts: trying again", "err", err)
			continue
		}
		h.pods[uid] = one
	}
	for uid := range maps.Clone(h.pods) {
		if _, ok := now[uid]; ok {
			continue
		}
		delete(h.pods, uid)
		if err := h.files.remove(uid); err != nil {
			a.cfg.Log.Warn("pod that is held no more", "err", err)
		}
	}
}
