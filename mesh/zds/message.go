// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/mesh/zds/zdspb"
)

// Version is what a ztunnel says in its hello.
type Version int32

const (
	// V1 is Istio's: exactly one network namespace comes with each add.
	V1 = Version(zdspb.Version_V1)
	// WarrenV1: none does.
	WarrenV1 = Version(zdspb.Version_WARREN_V1)
)

// decodeHello reads a ztunnel's first message; unknown versions are an error.
func decodeHello(b []byte) (Version, error) {
	m := &zdspb.ZdsHello{}
	if err := proto.Unmarshal(b, m); err != nil {
		return 0, fmt.Errorf("decode hello: %w", err)
	}
	switch v := Version(m.Version); v {
	case V1, WarrenV1:
		return v, nil
	default:
		return 0, fmt.Errorf("decode hello: version %d is not supported", v)
	}
}

func helloMessage(v Version) *zdspb.ZdsHello {
	return &zdspb.ZdsHello{Version: zdspb.Version(v)}
}

// kind of a request.
type kind uint8

const (
	kindAdd kind = iota + 1
	kindDel
	kindKeep
	kindSnapshotSent
)

// request is a decoded WorkloadRequest.
type request struct {
	kind     kind
	workload Workload // del and keep have a UID only, snapshot sent nothing
}

func decodeRequest(b []byte) (request, error) {
	m := &zdspb.WorkloadRequest{}
	if err := proto.Unmarshal(b, m); err != nil {
		return request{}, fmt.Errorf("decode request: %w", err)
	}
	var r request
	switch p := m.Payload.(type) {
	case *zdspb.WorkloadRequest_Add:
		i := p.Add.GetWorkloadInfo()
		r = request{kindAdd, Workload{
			UID: p.Add.GetUid(), Name: i.GetName(), Namespace: i.GetNamespace(), ServiceAccount: i.GetServiceAccount(),
		}}
	case *zdspb.WorkloadRequest_Del:
		r = request{kindDel, Workload{UID: p.Del.GetUid()}}
	case *zdspb.WorkloadRequest_Keep:
		r = request{kindKeep, Workload{UID: p.Keep.GetUid()}}
	case *zdspb.WorkloadRequest_SnapshotSent:
		return request{kind: kindSnapshotSent}, nil
	default:
		return request{}, errors.New("decode request: kind is unknown")
	}
	if r.workload.UID == "" {
		return request{}, errors.New("decode request: uid is empty")
	}
	return r, nil
}

func (r request) message() *zdspb.WorkloadRequest {
	w := r.workload
	switch r.kind {
	case kindAdd:
		return &zdspb.WorkloadRequest{Payload: &zdspb.WorkloadRequest_Add{Add: &zdspb.AddWorkload{
			Uid: w.UID,
			WorkloadInfo: &zdspb.WorkloadInfo{
				Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount,
			},
		}}}
	case kindDel:
		return &zdspb.WorkloadRequest{Payload: &zdspb.WorkloadRequest_Del{Del: &zdspb.DelWorkload{Uid: w.UID}}}
	case kindKeep:
		return &zdspb.WorkloadRequest{Payload: &zdspb.WorkloadRequest_Keep{Keep: &zdspb.KeepWorkload{Uid: w.UID}}}
	default:
		return &zdspb.WorkloadRequest{Payload: &zdspb.WorkloadRequest_SnapshotSent{SnapshotSent: &zdspb.SnapshotSent{}}}
	}
}

// decodeAck reads the answer to a request and returns the error it carries as text, "" for success.
func decodeAck(b []byte) (string, error) {
	m := &zdspb.WorkloadResponse{}
	if err := proto.Unmarshal(b, m); err != nil {
		return "", fmt.Errorf("decode response: %w", err)
	}
	a, ok := m.Payload.(*zdspb.WorkloadResponse_Ack)
	if !ok {
		return "", errors.New("decode response: not an ack")
	}
	return a.Ack.GetError(), nil
}

// ackMessage cuts the error's text so that it fits into a packet.
func ackMessage(err error) *zdspb.WorkloadResponse {
	ack := &zdspb.Ack{}
	if err != nil {
		ack.Error = fit(err.Error())
	}
	return &zdspb.WorkloadResponse{Payload: &zdspb.WorkloadResponse_Ack{Ack: ack}}
}
