// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// keyTraces are how a private key shows in text: PEM's head, and the first bytes of an EC key's DER, PKCS #8 or SEC 1,
// in base64 and in hexadecimal. They are the same for every P-256 key.
var keyTraces = []string{
	"PRIVATE KEY-----",
	"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg", "MHcCAQEEI",
	"308187020100301306072a8648ce3d", "30770201010420",
}

// TestNoKeyIsShown reads every page and every log of every part, at level debug, and looks for keys: traces of any, and
// the number of control's own.
func TestNoKeyIsShown(t *testing.T) {
	testutil.Privileged(t)
	debug := []string{"--log-level", "debug"}
	s := newSpine(t, Options{ControlFlags: debug, ZtunnelFlags: debug, AgentFlags: debug, BrokerFlags: debug, ReadyWithin: time.Minute})
	if _, _, err := talk(t, s.client, "tcp4", "far:80", "x"); err != nil {
		t.Fatal(err)
	}
	issuing := meshSigner(t, s.Mesh)
	scalar := make([]byte, 32)
	//lint:ignore SA1019 the test looks for this very number
	issuing.Key.D.FillBytes(scalar)
	traces := append([]string{hex.EncodeToString(scalar), base64.StdEncoding.EncodeToString(scalar), new(big.Int).SetBytes(scalar).String()}, keyTraces...)
	look := func(what, text string) {
		for _, trace := range traces {
			if strings.Contains(strings.ToLower(text), strings.ToLower(trace)) {
				t.Errorf("%s shows a key: %.20s...", what, trace)
			}
		}
	}
	seen := 0
	for _, n := range s.Nodes() {
		for _, p := range []*Process{n.System.Ztunnel, n.System.Agent} {
			index, status, err := p.Pod.Get("http://localhost:15000/")
			if err != nil || status != 200 {
				t.Fatalf("index of %s: %d, %v", p.Name, status, err)
			}
			paths := regexp.MustCompile(`/[a-z][A-Za-z0-9_/-]*`).FindAllString(index, -1)
			paths = append(paths, "/", "/config_dump", "/debug/pprof/heap?debug=1", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline")
			for _, path := range paths {
				if strings.Contains(path, "profile") || strings.Contains(path, "trace") || strings.Contains(path, "quit") {
					continue
				}
				if body, status, err := p.Pod.Get("http://localhost:15000" + path); err == nil && status == 200 {
					seen++
					look(p.Name+" "+path, body)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d pages were read: the index is not what it was", seen)
	}
	for _, p := range append(s.Nodes()[0].System.processes(), append(s.Nodes()[1].System.processes(), s.Control())...) {
		look("the log of "+p.Name, p.Output())
		if page, _, err := p.Pod.Get("http://localhost:15020/metrics"); err == nil {
			look("metrics of "+p.Name, page)
		}
	}
	file, err := os.ReadFile(s.path("ca/issuing.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, trace := range keyTraces[:2] {
		if !strings.Contains(strings.ReplaceAll(string(file), "\n", ""), trace) {
			t.Errorf("a real key has no %q: the search would find none", trace)
		}
	}
}
