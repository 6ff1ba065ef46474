// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"errors"
	"testing"
)

// FuzzDecode feeds every decoder: what it accepts must survive encoding and decoding.
func FuzzDecode(f *testing.F) {
	for _, r := range []request{
		{kindAdd, workload("one")}, {kindDel, Workload{UID: "one"}}, {kindKeep, Workload{UID: "one"}}, {kind: kindSnapshotSent},
	} {
		b, err := marshal(r.message())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	hello, _ := marshal(helloMessage(WarrenV1))
	ack, _ := marshal(ackMessage(errors.New("no listener")))
	f.Add(hello)
	f.Add(ack)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRequest(b); err == nil {
			again, err := marshal(r.message())
			if errors.Is(err, ErrTooLong) {
				return
			}
			if r2, err2 := decodeRequest(again); err != nil || err2 != nil || r != r2 {
				t.Errorf("request %+v came back as %+v (%v, %v)", r, r2, err, err2)
			}
		}
		if v, err := decodeHello(b); err == nil && v != V1 && v != WarrenV1 {
			t.Errorf("hello of version %d was accepted", v)
		}
		_, _ = decodeAck(b)
	})
}
