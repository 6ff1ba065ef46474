// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/mesh/kube"
)

// Publisher writes results below Dir/status. Only pods of Node are its business. Safe for concurrent use by
// processes as well, as each object has one node that writes about it.
type Publisher struct {
	Dir  string
	Node string
	// Now is the clock; default time.Now.
	Now func() time.Time
}

var _ kube.Publisher = (*Publisher)(nil)

func (p *Publisher) now() time.Time {
	if p.Now != nil {
		return p.Now().UTC()
	}
	return time.Now().UTC()
}

// PublishCaptured writes the pod's capture file, or removes it when value is "" and it is about this uid.
func (p *Publisher) PublishCaptured(_ context.Context, pod mesh.Name, podUID, value string) error {
	if err := plain(pod.Namespace, pod.Name); err != nil {
		return fmt.Errorf("publish capture of %s: %w", pod, err)
	}
	path := capturePath(p.Dir, pod)
	if value == "" {
		if c, err := loadCapture(p.Dir, path); err == nil && c.UID != podUID {
			return nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("publish capture of %s: %w", pod, err)
		}
		return nil
	}
	return writeJSON(path, capture{Namespace: pod.Namespace, Name: pod.Name, UID: podUID, Node: p.Node, Captured: value, Time: p.now()})
}

// conditionFile is DIR/status/conditions/<kind>_<namespace>_<name>.<type>.json.
type conditionFile struct {
	Object string `json:"object"`
	kube.Condition
	Time time.Time `json:"time"`
}

// PublishCondition writes the object's condition.
func (p *Publisher) PublishCondition(_ context.Context, object string, c kube.Condition) error {
	path, err := p.conditionPath(object, c.Type)
	if err != nil {
		return fmt.Errorf("publish condition of %s: %w", object, err)
	}
	return writeJSON(path, conditionFile{Object: object, Condition: c, Time: p.now()})
}

// ForgetCondition removes the condition's file.
func (p *Publisher) ForgetCondition(_ context.Context, object, conditionType string) error {
	path, err := p.conditionPath(object, conditionType)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget condition of %s: %w", object, err)
	}
	return nil
}

func (p *Publisher) conditionPath(object, conditionType string) (string, error) {
	name := strings.NewReplacer(" ", "_", "/", "_").Replace(object) + "." + conditionType
	return filepath.Join(p.Dir, StatusDir, conditionsDir, name+".json"), plain(name)
}

// ReadConditions returns all published conditions by object, then type.
func ReadConditions(dir string) (map[string]map[string]kube.Condition, error) {
	paths, err := filepath.Glob(filepath.Join(dir, StatusDir, conditionsDir, "[^.]*.json"))
	if err != nil {
		return nil, fmt.Errorf("read conditions: %w", err)
	}
	out := map[string]map[string]kube.Condition{}
	for _, path := range paths {
		data, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		var c conditionFile
		if err := json.Unmarshal(data, &c); err != nil {
			return nil, fmt.Errorf("read condition %s: %w", path, err)
		}
		if out[c.Object] == nil {
			out[c.Object] = map[string]kube.Condition{}
		}
		out[c.Object][c.Type] = c.Condition
	}
	return out, nil
}

// BundlePath is where the CA's root certificates lie.
func BundlePath(dir string) string { return filepath.Join(dir, StatusDir, BundleFile) }

// RevokedPath is where the CA's revocation lists lie; there is no file without one.
func RevokedPath(dir string) string { return filepath.Join(dir, StatusDir, RevokedFile) }

// ReadBundle reads the root certificates; fs.ErrNotExist while there are none.
func ReadBundle(dir string) ([]byte, error) {
	b, err := os.ReadFile(BundlePath(dir))
	if err != nil {
		return nil, fmt.Errorf("read CA bundle: %w", err)
	}
	return b, nil
}

// Publish writes one of these files for all nodes.
func Publish(path string, data []byte) error { return writeFile(path, data) }

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, append(b, '\n'))
}

// plain refuses what would lead out of its directory or hide.
func plain(parts ...string) error {
	for _, s := range parts {
		if s == "" || s[0] == '.' || strings.ContainsAny(s, "/\x00") || len(s) > 250 {
			return fmt.Errorf("%q can't be a file name", s)
		}
	}
	return nil
}
