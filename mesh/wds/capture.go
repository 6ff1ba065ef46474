// SPDX-License-Identifier: Apache-2.0

package wds

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/wds/warrenpb"
	"github.com/warren-mesh/warren/mesh/wds/workloadpb"
)

// workloadKinds are the controllers WDS has a word for; the others travel in the extension.
var workloadKinds = map[string]workloadpb.WorkloadType{
	"deployment": workloadpb.WorkloadType_DEPLOYMENT,
	"cronjob":    workloadpb.WorkloadType_CRONJOB,
	"pod":        workloadpb.WorkloadType_POD,
	"job":        workloadpb.WorkloadType_JOB,
}

// workloadExtension always exists: without it an empty service account would be read as "default".
func workloadExtension(w *mesh.Workload) *warrenpb.WorkloadExtension {
	x := &warrenpb.WorkloadExtension{
		PodUid:          w.PodUID,
		Capture:         warrenpb.Capture(w.Capture) + warrenpb.Capture_OUTSIDE,
		CaptureReason:   w.CaptureReason,
		CapturedRunning: w.CapturedRunning, Draining: w.Draining,
		Except: convert(w.Except, netip.Prefix.String),
	}
	if _, known := workloadKinds[w.WorkloadType]; !known {
		x.WorkloadType = w.WorkloadType
		if x.WorkloadType == "" {
			x.WorkloadType = noKind
		}
	}
	if !w.CapturedAt.IsZero() {
		x.CapturedAt = timestamppb.New(w.CapturedAt)
	}
	return x
}

// noKind says that the workload has no controller at all: the enumeration's zero is a deployment.
const noKind = "-"

func applyExtension(w *mesh.Workload, x *warrenpb.WorkloadExtension) error {
	if x.Capture < warrenpb.Capture_OUTSIDE || x.Capture > warrenpb.Capture_PENDING {
		return fmt.Errorf("capture %d is unknown (sender is newer?)", x.Capture)
	}
	w.PodUID, w.CaptureReason, w.CapturedRunning, w.Draining = x.PodUid, x.CaptureReason, x.CapturedRunning, x.Draining
	if err := read(&w.Except, x.Except, netip.ParsePrefix); err != nil {
		return fmt.Errorf("except: %w", err)
	}
	w.Capture = mesh.Capture(x.Capture - warrenpb.Capture_OUTSIDE)
	switch x.WorkloadType {
	case "":
	case noKind:
		w.WorkloadType = ""
	default:
		w.WorkloadType = x.WorkloadType
	}
	if x.CapturedAt != nil {
		if err := x.CapturedAt.CheckValid(); err != nil {
			return fmt.Errorf("captured_at: %w", err)
		}
		w.CapturedAt = x.CapturedAt.AsTime().In(time.UTC)
	}
	return nil
}

func applyForeign(w *mesh.Workload, p workloadpb.TunnelProtocol) {
	switch p {
	case workloadpb.TunnelProtocol_NONE:
		w.Capture = mesh.Outside
		return
	case workloadpb.TunnelProtocol_HBONE:
		w.Capture = mesh.Captured
	default:
		w.Capture, w.CaptureReason = mesh.Pending, "tunnel protocol "+p.String()
	}
	if w.ServiceAccount == "" {
		w.ServiceAccount = "default"
	}
}
