// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// everyField has no field at its zero value.
func everyField() *Config {
	return &Config{
		TrustDomain: "a.example", TrustDomainAliases: []string{"b.example"}, RootNamespace: "root",
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Exceptions: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		MTLSStrict: true, SameNodeTLS: true, Drain: time.Second, DropLabels: []string{"app"},
		AccessLog: AccessLog{Mode: AccessLogErrors, Format: AccessLogJSON},
		Tracing:   Tracing{OTLP: "otel:4317", Zipkin: "http://zipkin:9411/api/v2/spans", SamplePercent: 1},
	}
}

// TestConfigEqualSeesEveryField: a field that Equal or Clone forgot would not take effect when it alone changes.
func TestConfigEqualSeesEveryField(t *testing.T) {
	full := reflect.ValueOf(*everyField())
	for i := range full.NumField() {
		name := full.Type().Field(i).Name
		if full.Field(i).IsZero() {
			t.Fatalf("everyField leaves %s out", name)
		}
		c := everyField()
		reflect.ValueOf(c).Elem().Field(i).SetZero()
		if c.Equal(everyField()) || everyField().Equal(c) {
			t.Errorf("Equal does not see %s", name)
		}
	}
	if c := everyField().Clone(); !c.Equal(everyField()) || !reflect.DeepEqual(c, everyField()) {
		t.Errorf("clone %+v differs", c)
	}
	if !(&Config{}).Equal(&Config{DropLabels: []string{}}) {
		t.Error("an empty list differs from none")
	}
}

func TestConfigCloneSharesNothing(t *testing.T) {
	a := everyField()
	b := reflect.ValueOf(a.Clone()).Elem()
	for i := range b.NumField() {
		if f := b.Field(i); f.Kind() == reflect.Slice {
			f.Index(0).SetZero()
		}
	}
	if !a.Equal(everyField()) {
		t.Errorf("the clone's change shows in the original: %+v", a)
	}
}

func TestTrustDomains(t *testing.T) {
	c := &Config{TrustDomainAliases: []string{"old.example"}}
	for td, own := range map[string]bool{DefaultTrustDomain: true, "old.example": true, "other.example": false, "": false} {
		if c.OwnTrustDomain(td) != own {
			t.Errorf("%q: own %v, want %v", td, !own, own)
		}
	}
	id := Identity{TrustDomain: "old.example", Namespace: "n", ServiceAccount: "s"}
	if got := c.Canonical(id).String(); got != "spiffe://cluster.local/ns/n/sa/s" {
		t.Errorf("canonical form of an alias: %s", got)
	}
	id.TrustDomain = "other.example"
	if c.Canonical(id) != id || !c.Canonical(Identity{}).IsZero() {
		t.Error("an identity of no alias changed")
	}
}

func TestDrainOr(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{0: time.Minute, -1: 0, time.Second: time.Second} {
		if got := (&Config{Drain: d}).DrainOr(time.Minute); got != want {
			t.Errorf("Drain %v: %v, want %v", d, got, want)
		}
	}
}
