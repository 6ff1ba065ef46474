// SPDX-License-Identifier: Apache-2.0

package zds

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// task is a request and the pod's serial that it makes known.
type task struct {
	request
	serial uint64
}

// tell sends one request, waits for the answer and remembers it.
func (p *peer) tell(ctx context.Context, t task) error {
	uid := t.workload.UID
	file, err := p.netns(&t)
	if err != nil {
		p.told[uid] = told{t.serial, time.Now().Add(retryInterval)}
		p.server.acks.Put(Ack{UID: uid, Err: err})
		return nil
	}
	err = writePacket(p.conn, t.message(), file)
	if file != nil {
		file.Close()
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	b, err := p.hear(ctx)
	if err != nil {
		return fmt.Errorf("read ack: %w", err)
	}
	text, err := decodeAck(b)
	if err != nil {
		return err
	}
	p.answered(t, text)
	return nil
}

// netns opens what an add to a V1 ztunnel carries. A pod whose namespace can't be opened is kept, before
// the snapshot's end, so that the ztunnel doesn't drop it.
func (p *peer) netns(t *task) (*os.File, error) {
	if t.kind != kindAdd || p.version != V1 {
		return nil, nil
	}
	f, err := p.server.cfg.OpenNetns(t.workload.UID)
	if errors.Is(err, os.ErrNotExist) && !p.snapshot {
		t.kind = kindKeep
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

// answered records what the ztunnel now knows, and reports the answer to an add.
func (p *peer) answered(t task, text string) {
	uid := t.workload.UID
	log := p.server.cfg.Log
	switch t.kind {
	case kindSnapshotSent:
		p.snapshot = true
	case kindDel:
		delete(p.told, uid)
	case kindKeep:
		p.told[uid] = told{t.serial, time.Now().Add(retryInterval)}
	case kindAdd:
		known, ack := told{serial: t.serial}, Ack{UID: uid}
		if text != "" {
			known.retry, ack.Err = time.Now().Add(retryInterval), fmt.Errorf("ztunnel: %s", text)
		}
		p.told[uid] = known
		p.server.acks.Put(ack)
	}
	if text != "" {
		log.Warn("ztunnel answered with an error", "pod", uid, "err", text)
	}
}
