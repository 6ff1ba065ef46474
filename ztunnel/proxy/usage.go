// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/metrics"
)

const (
	// slotTime is how finely the past is kept, and slots how much of it: a minute and what of the present slot is over.
	slotTime = 5 * time.Second
	slots    = 13
	// podTalkers bounds the peers of one pod that are told apart.
	podTalkers = 64
)

// Talker is whom a pod talks to: a service, else a workload, else an address.
type Talker struct {
	Direction       string
	Namespace, Name string // Namespace "" for a host name or an address
}

// others stands for the peers beyond podTalkers.
var others = Talker{Name: "(others)"}

// Traffic is what went to and from somebody.
type Traffic struct {
	Sent, Received uint64 // bytes, from the pod's side
	// Opened connections, and Failed ones, which were not established.
	Opened, Failed uint64
}

func (t *Traffic) add(o Traffic) {
	t.Sent += o.Sent
	t.Received += o.Received
	t.Opened += o.Opened
	t.Failed += o.Failed
}

func (t Traffic) bytes() uint64 { return t.Sent + t.Received }

// less sorts by bytes, then by connections.
func (t Traffic) less(o Traffic) bool {
	if t.bytes() != o.bytes() {
		return t.bytes() < o.bytes()
	}
	return t.Opened+t.Failed < o.Opened+o.Failed
}

// recent is the traffic of the last minute, in slots.
type recent struct {
	slot int64 // the newest
	past [slots]Traffic
}

func (r *recent) at(slot int64) *Traffic {
	for ; r.slot < slot; r.slot++ {
		if slot-r.slot > slots {
			r.slot = slot - slots
		}
		r.past[(r.slot+1)%slots] = Traffic{}
	}
	return &r.past[slot%slots]
}

// since is the traffic of slot and the n before it.
func (r *recent) since(slot int64, n int) (sum Traffic) {
	r.at(slot)
	for i := range int64(n + 1) {
		sum.add(r.past[(slot-i+slots)%slots])
	}
	return sum
}

// usage is what a pod took so far, and who had to do with it lately. Safe for concurrent use.
type usage struct {
	mu      sync.Mutex
	opened  [2]uint64 // outbound, inbound
	refused uint64
	total   Traffic
	talkers map[Talker]*recent
}

func slotOf(now time.Time) int64 { return now.UnixNano() / int64(slotTime) }

func (u *usage) begun(direction string, refused bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	i := 0
	if direction == inbound {
		i = 1
	}
	if u.opened[i]++; refused {
		u.refused++
	}
}

// turnedAway counts a tunnel that met the limit.
func (u *usage) turnedAway() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refused++
}

func (u *usage) note(now time.Time, who Talker, t Traffic) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.total.add(t)
	u.talker(slotOf(now), who).at(slotOf(now)).add(t)
}

// talker finds or adds who.
func (u *usage) talker(slot int64, who Talker) *recent {
	if r := u.talkers[who]; r != nil {
		return r
	}
	if u.talkers == nil {
		u.talkers = map[Talker]*recent{others: {slot: slot}}
	}
	if len(u.talkers) > podTalkers {
		u.makeRoom(slot)
	}
	r := &recent{slot: slot}
	u.talkers[who] = r
	return r
}

// makeRoom counts the half that had least to do with the pod as others: a peer with much traffic comes back with much,
// and stays. Half of them at once, for to look through them all takes a while.
func (u *usage) makeRoom(slot int64) {
	var all []PeerTraffic
	for t, r := range u.talkers {
		if t != others {
			all = append(all, PeerTraffic{t, r.since(slot, slots-1)})
		}
	}
	slices.SortFunc(all, func(a, b PeerTraffic) int { return order(a.Traffic, b.Traffic) })
	rest := u.talkers[others]
	rest.at(slot)
	for _, t := range all[podTalkers/2:] {
		for i, past := range u.talkers[t.Talker].past {
			rest.past[i].add(past)
		}
		delete(u.talkers, t.Talker)
	}
}

// lately is the traffic by peer since window ago, most first, of those who had any.
func (u *usage) lately(now time.Time, window time.Duration) (sum Traffic, peers []PeerTraffic) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for t, r := range u.talkers {
		if got := r.since(slotOf(now), int(window/slotTime)); got != (Traffic{}) {
			sum.add(got)
			peers = append(peers, PeerTraffic{t, got})
		}
	}
	slices.SortFunc(peers, func(a, b PeerTraffic) int {
		return cmp.Or(order(a.Traffic, b.Traffic), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Direction, b.Direction))
	})
	return sum, peers
}

// order is most first.
func order(a, b Traffic) int {
	switch {
	case b.less(a):
		return -1
	case a.less(b):
		return 1
	}
	return 0
}

// PeerTraffic is what one peer had to do with a pod.
type PeerTraffic struct {
	Talker
	Traffic
}

// PodTraffic is what one pod had to do with anybody.
type PodTraffic struct {
	UID  string
	Name mesh.Name
	// Connections that are open now.
	Connections int
	Traffic
	Peers []PeerTraffic
}

// LongestWindow is how far Top looks back at most.
const LongestWindow = (slots - 1) * slotTime

// Top is what pods and their peers had to do with each other since about window ago, pods with most bytes first, at
// most limit of pods and of each one's peers; covered is the exact time. Pods without any are left out.
func (p *Proxy) Top(window time.Duration, limit int) (covered time.Duration, out []PodTraffic) {
	p.tell()
	now := p.cfg.Now()
	window = min(window, LongestWindow) / slotTime * slotTime
	covered = window + now.Sub(time.Unix(0, slotOf(now)*int64(slotTime)))
	for _, pd := range p.list() {
		sum, peers := pd.usage.lately(now, window)
		if len(peers) == 0 {
			continue
		}
		pd.mu.Lock()
		out = append(out, PodTraffic{pd.uid, pd.name, len(pd.conns), sum, peers[:min(len(peers), limit)]})
		pd.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b PodTraffic) int { return cmp.Or(order(a.Traffic, b.Traffic), cmp.Compare(a.UID, b.UID)) })
	return covered, out[:min(len(out), limit)]
}

// talker is who the pod has to do with by a connection.
func (f *facts) talker() Talker {
	t, w, id, addr := Talker{Direction: f.direction}, f.source, f.sourceID, f.src
	if f.direction == outbound {
		if f.service != nil {
			t.Name = f.service.Hostname
			return t
		}
		w, id, addr = f.destination, f.destinationID, f.dst
		if f.target.IsValid() {
			addr = f.target
		}
	}
	switch {
	case w != nil:
		t.Namespace, t.Name = w.Namespace, cmp.Or(w.WorkloadName, w.Name)
	case !id.IsZero():
		t.Namespace, t.Name = id.Namespace, "sa/"+id.ServiceAccount
	default:
		t.Name = addr.Addr().Unmap().String()
	}
	return t
}

// watchUsage tells the bytes of live connections as time goes by, so that it is known when they went.
func (p *Proxy) watchUsage(done <-chan struct{}) {
	tick := time.NewTicker(slotTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.tell()
		case <-done:
			return
		}
	}
}

// use brings all counters up to date, and is what each pod takes.
func (p *Proxy) use() []metrics.PodUse {
	p.tell()
	pods := p.list()
	out := make([]metrics.PodUse, 0, len(pods))
	for _, pd := range pods {
		pd.mu.Lock()
		u := metrics.PodUse{Name: pd.name, Serving: pd.known && len(pd.listeners) > 0, Tunnels: len(pd.tunnels), Handshakes: len(pd.handshakes), Buffered: pd.account.budget.Used()}
		for _, c := range pd.conns {
			if c.reporter == metrics.Source {
				u.Outbound++
			} else {
				u.Inbound++
			}
		}
		pd.mu.Unlock()
		pd.usage.mu.Lock()
		u.OpenedOutbound, u.OpenedInbound, u.Refused = pd.usage.opened[0], pd.usage.opened[1], pd.usage.refused
		u.Sent, u.Received = pd.usage.total.Sent, pd.usage.total.Received
		pd.usage.mu.Unlock()
		out = append(out, u)
	}
	return out
}
