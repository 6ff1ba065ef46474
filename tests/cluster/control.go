// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/tests/cluster/machine"
)

// makePKI issues every certificate of the cluster. The admin's kubeconfig reaches the API server from this machine's own
// network namespace, through a listener that the control plane's machine inherits.
func (c *Cluster) makePKI(apiAddr netip.AddrPort) error {
	a, err := newAuthority(c.pki(""))
	if err != nil {
		return err
	}
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain}
	pairs := map[string]subject{
		"apiserver":      {user: "kube-apiserver", names: names, addrs: []netip.Addr{loopback4, control4, control6, apiService, apiService6}},
		"kubelet-client": {user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		"front-proxy":    {user: "front-proxy-client"},
	}
	clients := map[string]subject{
		"controllers": {user: "system:kube-controller-manager"},
		"scheduler":   {user: "system:kube-scheduler"},
		"proxy":       {user: "system:kube-proxy"},
	}
	for n := 1; n <= c.options.Nodes; n++ {
		name := fmt.Sprintf("n%d", n)
		v4, v6 := nodeAddresses(n)
		s := subject{user: "system:node:" + name, groups: []string{"system:nodes"}, names: []string{name}, addrs: []netip.Addr{v4, v6}}
		pairs[name], clients[name] = s, s
	}
	for name, s := range pairs {
		if err := a.pair(name, s); err != nil {
			return err
		}
	}
	for name, s := range clients {
		if err := a.kubeconfig(name, apiServerURL, s); err != nil {
			return err
		}
	}
	return a.kubeconfig("admin", "https://"+apiAddr.String(), subject{user: "admin", groups: []string{"system:masters"}})
}

// bootControl starts the machine of the control plane; l is where this machine reaches the API server.
func (c *Cluster) bootControl(ctx context.Context, l *net.TCPListener) error {
	if err := c.control.Boot(ctx, l); err != nil {
		return err
	}
	if err := c.wireControl(ctx); err != nil {
		return err
	}
	if err := c.writeAuditPolicy(); err != nil {
		return err
	}
	for _, s := range []machine.Service{c.etcd(), c.apiServer()} {
		if err := c.control.Start(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) etcd() machine.Service {
	return machine.Service{Name: "etcd", Args: c.kube("etcd", "--data-dir=/var/lib/etcd")}
}

func (c *Cluster) apiServer() machine.Service {
	args := c.kube("kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--advertise-address="+control4.String(),
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--client-ca-file="+c.pki("ca.crt"), "--tls-cert-file="+c.pki("apiserver.crt"), "--tls-private-key-file="+c.pki("apiserver.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc."+clusterDomain,
		"--service-account-key-file="+c.pki("service-accounts.crt"), "--service-account-signing-key-file="+c.pki("service-accounts.key"),
		"--kubelet-client-certificate="+c.pki("kubelet-client.crt"), "--kubelet-client-key="+c.pki("kubelet-client.key"),
		"--kubelet-certificate-authority="+c.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file="+c.pki("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+c.pki("front-proxy.crt"), "--proxy-client-key-file="+c.pki("front-proxy.key"),
		"--service-cluster-ip-range="+serviceCIDRs,
		// No kube-proxy runs here: webhooks are reached by the addresses of their pods.
		"--enable-aggregator-routing")
	return machine.Service{Name: "kube-apiserver", Args: append(args, c.auditFlags()...)}
}

// startControllers starts what wants to find an API server.
func (c *Cluster) startControllers(ctx context.Context) error {
	as := func(who string) []string {
		k := c.pki(who + ".kubeconfig")
		return []string{"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k, "--leader-elect=false"}
	}
	controllers := append(c.kube("kube-controller-manager", "--use-service-account-credentials",
		"--service-account-private-key-file="+c.pki("service-accounts.key"), "--root-ca-file="+c.pki("ca.crt"),
		"--cluster-signing-cert-file="+c.pki("ca.crt"), "--cluster-signing-key-file="+c.pki("ca.key"),
		"--allocate-node-cidrs", "--cluster-cidr="+podCIDRs, "--service-cluster-ip-range="+serviceCIDRs,
		fmt.Sprintf("--node-cidr-mask-size-ipv4=%d", podMaskSize4), fmt.Sprintf("--node-cidr-mask-size-ipv6=%d", podMaskSize6),
	), as("controllers")...)
	if err := c.control.Start(ctx, machine.Service{Name: "kube-controller-manager", Args: controllers}); err != nil {
		return err
	}
	return c.control.Start(ctx, machine.Service{Name: "kube-scheduler", Args: append(c.kube("kube-scheduler"), as("scheduler")...)})
}

// waitAPI waits until the API server says it is ready.
func (c *Cluster) waitAPI(ctx context.Context) error {
	for {
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").MaxRetries(0).DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server: %w (its log: %s)", err, c.log(c.control, "kube-apiserver"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
