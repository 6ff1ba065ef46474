// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/warren-mesh/warren/mesh/broker"
	"github.com/warren-mesh/warren/mesh/reason"
)

// TestLayout compares the Go mirrors of C structs with the objects' own types: size, and each field's offset.
func TestLayout(t *testing.T) {
	spec := must1(loadSockops())(t)
	for name, mirror := range map[string]any{
		"addr": sockopsAddr{}, "sock_endpoint": sockopsSockEndpoint{}, "flow": sockopsFlow{}, "peer": sockopsPeer{},
		"exempt": sockopsExempt{}, "tuple": sockopsTuple{}, "pod": sockopsPod{}, "exception": sockopsException{}, "pod_exception": sockopsPodException{},
	} {
		var c *btf.Struct
		must(t, spec.Types.TypeByName(name, &c))
		g := reflect.TypeOf(mirror)
		if uintptr(c.Size) != g.Size() {
			t.Errorf("struct %s has %d bytes in C, %d in Go", name, c.Size, g.Size())
		}
		if len(c.Members) != g.NumField()-1 { // the first field is structs.HostLayout
			t.Errorf("struct %s has %d fields in C, %d in Go", name, len(c.Members), g.NumField()-1)
			continue
		}
		for i, m := range c.Members {
			if f := g.Field(i + 1); uintptr(m.Offset.Bytes()) != f.Offset {
				t.Errorf("struct %s: %s is at %d in C, %d in Go", name, m.Name, m.Offset.Bytes(), f.Offset)
			}
		}
	}
	if got := reflect.TypeOf(sockopsSockEndpoint{}).Size(); got != 20 {
		t.Errorf("the socket option has %d bytes, want 20", got)
	}
}

func TestObjectsAgree(t *testing.T) {
	objs := must1(parseObjects())(t)
	if n := objs.shared[mapStats].MaxEntries; n < reason.Max {
		t.Errorf("stats has %d entries for %d reasons", n, reason.Max)
	}
	for _, spec := range objs.node {
		for name := range spec.Maps {
			if name != ".rodata" && objs.shared[name] == nil {
				t.Errorf("map %s is not shared", name)
			}
		}
	}
	for name := range objs.shared {
		if len(name) > 15 {
			t.Errorf("map %s: the kernel cuts names at 15 characters", name)
		}
	}
}

func TestAddrRoundTrip(t *testing.T) {
	for _, s := range []string{"10.9.0.2", "fd09::2", "::1", "127.0.0.1", "255.255.255.255"} {
		a := netip.MustParseAddr(s)
		if got := addrTo(addrFrom(a)); got != a {
			t.Errorf("%v becomes %v", a, got)
		}
	}
	if got := addrTo(addrFrom(netip.Addr{})); got.IsValid() {
		t.Errorf("no address becomes %v", got)
	}
}

func TestExceptionKeys(t *testing.T) {
	tests := []struct {
		prefix string
		bits   uint32
		ok     bool
	}{
		{"10.0.0.0/8", 104, true},
		{"0.0.0.0/0", 96, true},
		{"10.1.2.3/8", 104, true},
		{"fd00::/8", 8, true},
		{"2001:db8::1/128", 128, true},
		{"::/0", 0, false},
		{"::ffff:0:0/96", 0, false},
		{"::ffff:10.0.0.0/104", 0, false},
	}
	for _, tt := range tests {
		k, err := exceptionFrom(netip.MustParsePrefix(tt.prefix))
		if (err == nil) != tt.ok || k.Bits != tt.bits {
			t.Errorf("%s: %d bits, %v", tt.prefix, k.Bits, err)
		}
	}
	if _, err := exceptionFrom(netip.Prefix{}); err == nil {
		t.Error("the zero prefix was accepted")
	}
}

// TestPorts compares config.h with the ports that the broker and ztunnel know.
func TestPorts(t *testing.T) {
	header := string(must1(os.ReadFile("include/config.h"))(t))
	for name, want := range map[string]int{
		"PORT_OUTBOUND": broker.PortOutbound, "PORT_PLAINTEXT": broker.PortPlaintext, "PORT_HBONE": broker.PortHBONE,
		"PORT_DNS": broker.PortDNS, "CAPTURE_FIRST": broker.CaptureFirst,
		"CAPTURE_PORTS": broker.CaptureLast - broker.CaptureFirst + 1,
		"SOCKOPT_LEVEL": broker.SockoptLevel, "SOCKOPT_ORIGINAL_DESTINATION": broker.OptOriginalDestination,
		"SOCKOPT_CLIENT_ADDRESS": broker.OptClientAddress,
	} {
		m := regexp.MustCompile(`(?m)^#define ` + name + ` (\S+)$`).FindStringSubmatch(header)
		if m == nil {
			t.Errorf("config.h has no %s", name)
			continue
		}
		if got, err := strconv.ParseInt(m[1], 0, 32); err != nil || int(got) != want {
			t.Errorf("%s is %s in C, %d in Go", name, m[1], want)
		}
	}
}

func TestMissingFeature(t *testing.T) {
	defer func(old []feature) { needed = old }(needed)
	broken := errors.New("no permission")
	needed = []feature{
		{"something new", "9.1", func() error { return fmt.Errorf("probe: %w", ebpf.ErrNotSupported) }},
		{"something forbidden", "9.2", func() error { return broken }},
		{"something old", "2.6", func() error { return nil }},
	}
	err := Probe()
	var missing *MissingFeatureError
	if !errors.As(err, &missing) || missing.Feature != "something new" || missing.Since != "9.1" {
		t.Errorf("probe: %v", err)
	}
	if !errors.Is(err, ebpf.ErrNotSupported) || !errors.Is(err, broken) || strings.Contains(err.Error(), "old") {
		t.Errorf("probe: %v", err)
	}
}
