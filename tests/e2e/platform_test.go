// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/tests/cluster"
	"github.com/warren-mesh/warren/tests/e2e/testapp/answer"
)

// TestPlatform: what Kubernetes itself does with pods, it does with captured ones under STRICT.
func TestPlatform(t *testing.T) {
	m := Shared(t)
	ns := m.Namespace(t, "platform", Enrolled())
	ns.Strict(true)
	nodes := m.Nodes()
	cert := ns.certificate("hook")
	ns.Service(Service{Name: "server"})
	ns.Service(Service{Name: "hook", Ports: []Port{{443, TLSPort}}})
	pods := ns.Deploy(App{Name: "server", Node: nodes[1]},
		App{Name: "hook", Node: nodes[1], Serve: []string{"webhook=:8443"}, Change: func(p *corev1.PodTemplateSpec) {
			p.Spec.Volumes = []corev1.Volume{{Name: "certs", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "hook"}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "certs", MountPath: "/certs"}}
		}})
	server, hook := pods[0], pods[1]
	t.Run("port-forward", func(t *testing.T) { t.Parallel(); forward(t, m, server) })
	t.Run("init container", func(t *testing.T) { t.Parallel(); connectBeforeStart(t, ns.In(t), server) })
	t.Run("Job", func(t *testing.T) { t.Parallel(); complete(t, ns.In(t), server) })
	t.Run("client-go", func(t *testing.T) { t.Parallel(); listsPods(t, ns.In(t), server.In(t)) })
	t.Run("admission webhook", func(t *testing.T) { t.Parallel(); admit(t, ns.In(t), hook, cert) })
}

// forward asks the server by kubectl port-forward.
func forward(t *testing.T, m *Mesh, server *Pod) {
	cmd := m.Kubectl(t.Context(), "-n", server.Namespace, "port-forward", "pod/"+server.Name, fmt.Sprint(":", HTTPPort))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	at := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	if at == "" {
		t.Fatalf("kubectl says %q, %v", line, err)
	}
	client := http.Client{Timeout: 20 * time.Second}
	for range 3 {
		r, err := client.Get("http://" + at + "/")
		if err != nil {
			t.Fatal(err)
		}
		var a answer.HTTP
		err = json.NewDecoder(r.Body).Decode(&a)
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if err != nil || a.Pod != server.Name {
			t.Errorf("got %+v, %v", a, err)
		}
	}
}

// connectBeforeStart has an init container connect, in plaintext STRICT would refuse, at once.
func connectBeforeStart(t *testing.T, ns *Namespace, server *Pod) {
	line := "init " + ns.Name
	p := ns.Deploy(App{Name: "begins", Node: ns.mesh.Nodes()[0], Change: func(p *corev1.PodTemplateSpec) {
		p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: ns.mesh.App, ImagePullPolicy: corev1.PullNever,
			Args: []string{"talk", "-retry", "30s", "server:80", line}}}
	}})[0]
	heard := server.In(t).HeardLine(line)
	if heard == nil || !strings.HasPrefix(heard.Peer, p.IPv4.String()+":") && !strings.HasPrefix(heard.Peer, "["+p.IPv6.String()+"]:") {
		t.Errorf("the server heard %+v, want it from %v", heard, p)
	}
}

// complete runs a Job that talks to the server: it completes, and what the node held of its pod goes.
func complete(t *testing.T, ns *Namespace, server *Pod) {
	line := "job " + ns.Name
	template := ns.Template(App{Name: "job", Node: ns.mesh.Nodes()[0], Args: []string{"talk", "-retry", "30s", "server:80", line}})
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.Job{ObjectMeta: ns.object("job", "job", nil, nil), Spec: batchv1.JobSpec{Template: template}}
	if _, err := ns.mesh.Client().BatchV1().Jobs(ns.Name).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := ns.mesh.Wait(t.Context(), ns.Name, "jobs/job", cluster.Condition("Complete")); err != nil {
		t.Fatal(err)
	}
	if server.In(t).HeardLine(line) == nil {
		t.Error("the server heard nothing")
	}
	pods := ns.Pods("app=job")
	if len(pods) != 1 {
		t.Fatalf("%d pods, want 1: the first try completes", len(pods))
	}
	ztunnel := ns.mesh.Ztunnel(t, pods[0].Node)
	Eventually(t, 30*time.Second, "the capture of the Job's pod goes", func() string {
		page, err := ztunnel.Get("http://localhost:15000/config_dump")
		if err != nil {
			return err.Error()
		}
		if strings.Contains(page, pods[0].UID) {
			return "ztunnel has it"
		}
		return ""
	})
}

// listsPods runs a client-go program in a captured pod.
func listsPods(t *testing.T, ns *Namespace, server *Pod) {
	ns.Apply(`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: pods}, rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: pods}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: pods},
  subjects: [{kind: ServiceAccount, name: server}]}`)
	e := ns.mesh.Witness(t, server.Node)
	var names []string
	// By kubectl exec: the process has the container's environment.
	out, err := server.Exec("pods", ns.Name)
	if err == nil {
		err = json.Unmarshal([]byte(out), &names)
	}
	if err != nil || !slices.Contains(names, server.Name) {
		t.Fatalf("got %v, %v", names, err)
	}
	Eventually(t, 5*time.Second, "the connection to the API server went through ztunnel", func() string {
		if len(e.Lines("src.workload="+server.Name, "dst.service=kubernetes.default.svc.cluster.local")) == 0 {
			return strings.Join(e.Lines("src.workload="+server.Name), "\n")
		}
		return ""
	})
}

const webhook = `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: %[1]s}, webhooks: [{
  name: hook.example.com, admissionReviewVersions: [v1], sideEffects: None, timeoutSeconds: 5, failurePolicy: Fail,
  objectSelector: {matchLabels: {ask: %[1]s}}, rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}],
  clientConfig: {caBundle: %[2]s, service: {namespace: %[1]s, name: hook}}}]}`

const webhookPort = `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: webhook}, spec: {selector: {matchLabels: {app: hook}},
  mtls: {mode: STRICT}, portLevelMtls: {"8443": {mode: PERMISSIVE}}}}`

// admit has the API server, which is outside of the mesh, ask a webhook in it.
func admit(t *testing.T, ns *Namespace, hook *Pod, cert []byte) {
	ns.Apply(webhook, ns.Name, base64.StdEncoding.EncodeToString(cert))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := ns.mesh.Client().AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	try := func() string {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "try-", Labels: map[string]string{"ask": ns.Name}}}
		_, err := ns.mesh.Client().CoreV1().ConfigMaps(ns.Name).Create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return fmt.Sprint(err)
	}
	says := func(what, want string) {
		Eventually(t, 20*time.Second, what, func() string {
			if got := try(); !strings.Contains(got, want) {
				return fmt.Sprintf("got %q, want %q", got, want)
			}
			return ""
		})
	}
	says("STRICT refuses the API server", "failed calling webhook")
	ns.Apply(webhookPort)
	says("with its port open, the webhook is asked", "denied by "+hook.Name)
	ns.Delete(webhookPort)
	says("STRICT again", "failed calling webhook")
}

// certificate makes a Secret with a server certificate for a Service, and returns what to trust.
func (n *Namespace) certificate(service string) []byte {
	n.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{service + "." + n.Name + ".svc"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		n.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		n.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	o := &corev1.Secret{ObjectMeta: n.object(service, service, nil, nil), Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		"tls.crt": cert, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}}
	if _, err := n.mesh.Client().CoreV1().Secrets(n.Name).Create(n.t.Context(), o, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	return cert
}
