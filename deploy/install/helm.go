// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// loadChart reads the chart of a checkout.
func loadChart(s source) (*chart.Chart, error) {
	c, err := loader.LoadDir(filepath.Join(s.dir, "deploy", "chart", "warren"))
	if err != nil {
		return nil, fmt.Errorf("load chart: %w", err)
	}
	return c, nil
}

// The SDK would sign what it applies with this program's name, and `helm upgrade` would find the fields another's.
func init() { kube.ManagedFieldsManager = "helm" }

// helm is the SDK's configuration for one cluster.
func helm(cfg *rest.Config) (*action.Configuration, error) {
	c := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	if err := c.Init(&connection{config: cfg}, Namespace, "secret"); err != nil {
		return nil, fmt.Errorf("prepare Helm: %w", err)
	}
	return c, nil
}

// apply installs the release, or upgrades the one that was.
func apply(ctx context.Context, c *action.Configuration, ch *chart.Chart, o Options, was *release.Release, values map[string]any) error {
	if was == nil {
		i := action.NewInstall(c)
		i.ReleaseName, i.Namespace, i.Timeout = Release, Namespace, o.Timeout
		i.SkipCRDs = true // applied before, also by an upgrade
		i.WaitStrategy = kube.HookOnlyStrategy
		_, err := i.RunWithContext(ctx, ch, values)
		return err
	}
	u := action.NewUpgrade(c)
	u.Namespace, u.Timeout, u.SkipCRDs = Namespace, o.Timeout, true
	u.ResetValues = true // these are all that count: what stays of the release is among them
	u.WaitStrategy = kube.HookOnlyStrategy
	u.MaxHistory = 5
	u.ForceConflicts = true // what somebody edited by hand is as the chart says again
	_, err := u.RunWithContext(ctx, Release, ch, values)
	return err
}

// connection tells Helm where the cluster is. Safe for concurrent use.
type connection struct {
	config *rest.Config

	once      sync.Once
	discovery discovery.CachedDiscoveryInterface
	err       error
}

// ToRESTConfig implements Helm's RESTClientGetter.
func (c *connection) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(c.config), nil }

// ToDiscoveryClient implements RESTClientGetter.
func (c *connection) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	c.once.Do(func() {
		d, err := discovery.NewDiscoveryClientForConfig(c.config)
		if err != nil {
			c.err = err
			return
		}
		c.discovery = memory.NewMemCacheClient(d)
	})
	return c.discovery, c.err
}

// ToRESTMapper implements RESTClientGetter.
func (c *connection) ToRESTMapper() (meta.RESTMapper, error) {
	d, err := c.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	return restmapper.NewDeferredDiscoveryRESTMapper(d), nil
}

// ToRawKubeConfigLoader implements RESTClientGetter; the namespace is all Helm asks it for.
func (c *connection) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{
		Context: clientcmdapi.Context{Namespace: Namespace},
	})
}
