// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/warren-mesh/warren/mesh/dump"
	"github.com/warren-mesh/warren/ztunnel/proxy"
)

// top answers ?window=10s&limit=10, as JSON, or as a table with &format=text or where text is accepted.
func (s Sources) top(w http.ResponseWriter, r *http.Request) {
	window, limit := 10*time.Second, 10
	var err error
	if v := r.FormValue("window"); v != "" {
		if window, err = time.ParseDuration(v); err != nil || window <= 0 || window > proxy.LongestWindow {
			http.Error(w, fmt.Sprintf("window %q: want a duration up to %v", v, proxy.LongestWindow), http.StatusBadRequest)
			return
		}
	}
	if v := r.FormValue("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 {
			http.Error(w, fmt.Sprintf("limit %q: want a number from 1", v), http.StatusBadRequest)
			return
		}
	}
	covered, pods := s.Top(window, limit)
	t := topOf(covered, pods)
	if f := r.FormValue("format"); f == "text" || f == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/plain") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		writeTop(w, t)
		return
	}
	writeJSON(w, t)
}

func topOf(covered time.Duration, pods []proxy.PodTraffic) dump.Top {
	t := dump.Top{Seconds: math.Round(covered.Seconds()*10) / 10, Pods: []dump.TopPod{}}
	rates := func(in proxy.Traffic) dump.Rates {
		per := func(n uint64) float64 { return math.Round(float64(n)/covered.Seconds()*100) / 100 }
		return dump.Rates{Sent: per(in.Sent), Received: per(in.Received), Opened: per(in.Opened), Failed: per(in.Failed)}
	}
	for _, p := range pods {
		pod := dump.TopPod{Namespace: p.Name.Namespace, Name: p.Name.Name, UID: p.UID, Connections: p.Connections, Rates: rates(p.Traffic), Peers: []dump.TopPeer{}}
		for _, peer := range p.Peers {
			name := peer.Name
			if peer.Namespace != "" {
				name = peer.Namespace + "/" + name
			}
			pod.Peers = append(pod.Peers, dump.TopPeer{Direction: peer.Direction, Peer: name, Rates: rates(peer.Traffic)})
		}
		t.Pods = append(t.Pods, pod)
	}
	return t
}

func writeTop(w io.Writer, t dump.Top) {
	fmt.Fprintf(w, "per second, over the last %v s\n", t.Seconds)
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(dump.TopHead, "\t"))
	for _, row := range t.Rows() {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	_ = tw.Flush() // the client went away
}
