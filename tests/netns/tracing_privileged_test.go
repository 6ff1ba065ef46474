// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/tests/testutil"
)

// zipkinJar finds the server that tests/zipkin.sh has fetched, or the one that WARREN_ZIPKIN names, and Java.
func zipkinJar(t *testing.T) string {
	t.Helper()
	jar := os.Getenv("WARREN_ZIPKIN")
	_, err := exec.LookPath("java")
	if jar == "" && err == nil {
		var cache string
		var script []byte
		if script, err = os.ReadFile("../zipkin.sh"); err != nil {
			t.Fatal(err)
		}
		if cache, err = os.UserCacheDir(); err != nil {
			t.Fatal(err)
		}
		version := regexp.MustCompile(`(?m)^version=(.+)$`).FindSubmatch(script)
		jar = filepath.Join(cache, "warren", fmt.Sprintf("zipkin-server-%s-exec.jar", version[1]))
		_, err = os.Stat(jar)
	}
	if err != nil {
		text := fmt.Sprintf("no Zipkin: %v (run `bash tests/zipkin.sh` in the repository as this user; or set WARREN_ZIPKIN)", err)
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	return jar
}

// zipkinSpan is a span as Zipkin's API tells it.
type zipkinSpan struct {
	TraceID, ID, ParentID, Kind, Name string
	Timestamp, Duration               int64
	LocalEndpoint, RemoteEndpoint     struct{ ServiceName, IPv4 string }
	Tags                              map[string]string
}

// zipkinTraces asks Zipkin for the traces that have a span of that many bytes from the client, the mark of one
// connection.
func zipkinTraces(t *testing.T, p *Pod, sent int) [][]zipkinSpan {
	t.Helper()
	body, status, err := p.Get(fmt.Sprintf("http://localhost:9411/api/v2/traces?limit=50&annotationQuery=warren.bytes_sent%%3D%d", sent))
	var out [][]zipkinSpan
	if err == nil && status == 200 {
		err = json.Unmarshal([]byte(body), &out)
	}
	if err != nil || status != 200 {
		t.Fatalf("ask Zipkin: status %d, %v: %s", status, err, body)
	}
	return out
}

// TestTracing sends the spans of real connections to a real Zipkin server and to the OpenTelemetry Collector's own
// receiver: the ends of one connection, which two ztunnels tell of, are one trace.
func TestTracing(t *testing.T) {
	testutil.Privileged(t)
	t.Parallel() // it waits most of its time
	jar, receiver := zipkinJar(t), buildPeer(t, "otlp", ".")
	s := newSpine(t, Options{})
	zipkin := s.Node("a").Pod("zipkin", In("tracing"), Labels("app", "zipkin"))
	collector := s.Node("b").Pod("collector", In("tracing"), Labels("app", "collector"))
	s.Service("zipkin", "tracing", map[string]string{"app": "zipkin"}, TCP(9411, 9411))
	s.Service("collector", "tracing", map[string]string{"app": "collector"}, TCP(4317, 14317))
	kill := runPeer(t, zipkin, func() error { return answers(zipkin, "http://localhost:9411/health") }, "java",
		"-Xmx160m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-jar", jar)
	runPeer(t, collector, func() error { return answers(collector, "http://localhost:8081/") }, receiver, "0.0.0.0:14317", "localhost:8081")

	// Before it is asked for nothing is traced.
	say := func(from *Pod, to string, bytes int) error {
		_, _, err := talk(t, from, "tcp4", to, strings.Repeat("x", bytes-1)) // and a newline
		return err
	}
	if err := say(s.client, "far:80", 100); err != nil {
		t.Fatal(err)
	}
	s.meshConfig("{tracing: {samplePercent: 100, zipkin: {endpoint: \"http://zipkin.tracing:9411/api/v2/spans\"}, otlp: {endpoint: \"collector.tracing:4317\"}}}")
	bytes := 101
	testutil.Eventually(t, 20*time.Second, "a first trace", func() bool {
		if err := say(s.client, "far:80", bytes); err != nil {
			t.Fatal(err)
		}
		bytes++
		body, _, err := zipkin.Get("http://localhost:9411/api/v2/services")
		return err == nil && strings.Contains(body, "client.app") && strings.Contains(body, "far.app")
	})

	for i, tt := range []struct{ name, to, server, reason string }{
		{"across nodes", "far:80", "far", "TUNNEL"},
		{"on one node", "near:80", "near", "SAME_NODE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 5000 + 100*i
			if err := say(s.client, tt.to, n); err != nil {
				t.Fatal(err)
			}
			var client, server zipkinSpan
			testutil.Eventually(t, 20*time.Second, "both spans are in Zipkin", func() bool {
				for _, trace := range zipkinTraces(t, zipkin, n) {
					for _, span := range trace {
						if span.Kind == "CLIENT" {
							client = span
						} else {
							server = span
						}
					}
				}
				return client.ID != "" && server.ID != ""
			})
			if server.ParentID != client.ID || server.TraceID != client.TraceID || client.ParentID != "" {
				t.Errorf("the server's span %s has parent %s in trace %s; the client's is %s in %s below %q", server.ID, server.ParentID, server.TraceID, client.ID, client.TraceID, client.ParentID)
			}
			host := tt.server + ".app.svc.cluster.local"
			if client.LocalEndpoint.ServiceName != "client.app" || client.RemoteEndpoint.ServiceName != tt.server+".app" || server.LocalEndpoint.ServiceName != tt.server+".app" || client.Name != "tcp "+host {
				t.Errorf("client's span %+v, server's %+v", client, server)
			}
			for end, span := range map[string]zipkinSpan{"client": client, "server": server} {
				for key, want := range map[string]string{
					"warren.source.identity": account("app", "client").String(), "warren.destination.identity": account("app", tt.server).String(),
					"warren.security": "mutual_tls", "destination.port": "8080",
				} {
					if got := span.Tags[key]; got != want {
						t.Errorf("%s's span: %s is %q, want %q", end, key, got, want)
					}
				}
			}
			if client.Tags["warren.reason"] != tt.reason || client.Tags["warren.bytes_sent"] != server.Tags["warren.bytes_received"] || client.Tags["warren.bytes_received"] != server.Tags["warren.bytes_sent"] {
				t.Errorf("client's span %v, server's %v; want reason %s", client.Tags, server.Tags, tt.reason)
			}
			inCollector(t, collector, client, server)
		})
	}

	t.Run("a collector that goes away costs nothing", func(t *testing.T) {
		kill()
		for range 20 {
			if err := say(s.client, "far:80", 10); err != nil {
				t.Fatal(err)
			}
		}
		testutil.Eventually(t, 20*time.Second, "failures are counted", func() bool {
			body, _, err := s.Node("a").System.Ztunnel.Pod.Get("http://localhost:15020/metrics")
			return err == nil && regexp.MustCompile(`warren_spans_export_failures_total\{exporter="zipkin"\} [1-9]`).MatchString(body) &&
				regexp.MustCompile(`warren_spans_exported_total\{exporter="otlp"\} [1-9]`).MatchString(body)
		})
	})
	for _, n := range s.Nodes() {
		if out := n.System.Ztunnel.Output(); strings.Contains(out, "SIGSYS") || strings.Contains(out, "bad system call") {
			t.Errorf("node %s: the seal was broken: %s", n.Name, lastLines(out, 5))
		}
	}
}

// inCollector wants the same two spans in what OpenTelemetry's receiver was sent, each below the pod it tells of.
func inCollector(t *testing.T, p *Pod, client, server zipkinSpan) {
	t.Helper()
	type attribute struct {
		Key   string
		Value struct{ StringValue, IntValue string }
	}
	var got struct {
		ResourceSpans []struct {
			Resource   struct{ Attributes []attribute }
			ScopeSpans []struct {
				Spans []struct {
					TraceID, SpanID, ParentSpanID, Name string
					Kind                                int
				}
			}
		}
	}
	found := map[string]string{} // span: pod, node, parent
	testutil.Eventually(t, 20*time.Second, "both spans are in the collector", func() bool {
		body, status, err := p.Get("http://localhost:8081/spans")
		if err == nil && status != 200 {
			err = errors.New(body)
		}
		if err == nil {
			err = json.Unmarshal([]byte(body), &got)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got.ResourceSpans {
			resource := map[string]string{}
			for _, a := range r.Resource.Attributes {
				resource[a.Key] = a.Value.StringValue
			}
			for _, scope := range r.ScopeSpans {
				for _, span := range scope.Spans {
					found[span.TraceID+" "+span.SpanID] = fmt.Sprint(resource["k8s.namespace.name"], "/", resource["k8s.pod.name"], " ", span.ParentSpanID, " ", span.Kind)
				}
			}
		}
		return found[client.TraceID+" "+client.ID] != "" && found[server.TraceID+" "+server.ID] != ""
	})
	pod, _, _ := strings.Cut(server.LocalEndpoint.ServiceName, ".")
	for span, want := range map[string]string{client.TraceID + " " + client.ID: "app/client  3", server.TraceID + " " + server.ID: fmt.Sprintf("app/%s %s 2", pod, client.ID)} {
		if found[span] != want {
			t.Errorf("span %s: got %q, want %q", span, found[span], want)
		}
	}
}
