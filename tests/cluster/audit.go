// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// auditPolicy has the API server write down what pods ask of it, without bodies; not what Kubernetes' own controllers do.
// A watch is written down when it begins, all else when it is answered.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, Panic]
rules:
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
`

// Request is what a service account asked of the API server.
type Request struct {
	At                      time.Time
	Namespace, Account      string // who asked
	Agent                   string // the program that asked, as it calls itself
	Verb, URI               string
	Group, Resource         string // a subresource is part of it: "pods/status"; empty: URI names no resource
	ObjectSpace, ObjectName string
	Allowed                 bool
	Why                     string // the authorizer's words: by which binding of which role
	Status                  int    // of the answer; 0 for a watch that has only begun
}

func (c *Cluster) auditLog() string    { return filepath.Join(c.control.Dir, "log", "audit.log") }
func (c *Cluster) auditPolicy() string { return filepath.Join(c.control.Dir, "audit-policy.yaml") }

// writeAuditPolicy makes ready what the API server's flags name.
func (c *Cluster) writeAuditPolicy() error {
	if err := os.WriteFile(c.auditPolicy(), []byte(auditPolicy), 0o644); err != nil {
		return fmt.Errorf("write audit policy: %w", err)
	}
	return nil
}

// auditFlags bound the log to three files of 20 MB.
func (c *Cluster) auditFlags() []string {
	return []string{"--audit-policy-file=" + c.auditPolicy(), "--audit-log-path=" + c.auditLog(), "--audit-log-maxsize=20", "--audit-log-maxbackup=2"}
}

// Audit returns what service accounts other than Kubernetes' own asked of the API server, as far back as its log goes, each
// request once or, a watch, at its beginning and its end.
func (c *Cluster) Audit() ([]Request, error) {
	current := c.auditLog()
	// Rotated ones have a time in their names, and sort before it.
	files, err := filepath.Glob(strings.TrimSuffix(current, ".log") + "-*.log")
	if err != nil {
		return nil, err
	}
	var all []Request
	for _, f := range append(files, current) {
		b, err := os.ReadFile(f)
		if err != nil && (f == current || !errors.Is(err, os.ErrNotExist)) {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		some, err := parseAudit(b)
		if err != nil {
			return nil, fmt.Errorf("read audit log %s: %w", f, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// parseAudit reads the log, but for a last line that is not written to its end yet.
func parseAudit(log []byte) ([]Request, error) {
	var all []Request
	for line := range bytes.Lines(log) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var e struct {
			Verb, RequestURI, UserAgent string
			User                        struct{ Username string }
			ObjectRef                   struct{ APIGroup, Resource, Subresource, Namespace, Name string }
			ResponseStatus              struct{ Code int }
			StageTimestamp              time.Time
			Annotations                 map[string]string
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, err
		}
		r := Request{
			At: e.StageTimestamp, Agent: e.UserAgent, Verb: e.Verb, URI: e.RequestURI,
			Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, ObjectSpace: e.ObjectRef.Namespace, ObjectName: e.ObjectRef.Name,
			Allowed: e.Annotations["authorization.k8s.io/decision"] == "allow", Why: e.Annotations["authorization.k8s.io/reason"],
			Status: e.ResponseStatus.Code,
		}
		if e.ObjectRef.Subresource != "" {
			r.Resource += "/" + e.ObjectRef.Subresource
		}
		r.Namespace, r.Account, _ = strings.Cut(strings.TrimPrefix(e.User.Username, "system:serviceaccount:"), ":")
		all = append(all, r)
	}
	return all, nil
}
