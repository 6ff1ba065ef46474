// SPDX-License-Identifier: Apache-2.0

//go:build ignore

package main

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcd is a single member that keeps its data only as long as the machine runs: it doesn't wait for the disk.
func etcd() *cobra.Command {
	c := embed.NewConfig()
	c.LogLevel = "warn"
	c.UnsafeNoFsync = true
	var client, peer string
	cmd := &cobra.Command{Use: "etcd", SilenceUsage: true}
	cmd.Flags().StringVar(&c.Dir, "data-dir", "/var/lib/etcd", "where the data lies")
	cmd.Flags().StringVar(&client, "listen-client", "http://127.0.0.1:2379", "URL for clients")
	cmd.Flags().StringVar(&peer, "listen-peer", "http://127.0.0.1:2380", "URL for members")
	cmd.RunE = func(*cobra.Command, []string) error {
		cu, err := url.Parse(client)
		if err != nil {
			return fmt.Errorf("parse client URL: %w", err)
		}
		pu, err := url.Parse(peer)
		if err != nil {
			return fmt.Errorf("parse peer URL: %w", err)
		}
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*cu}, []url.URL{*cu}
		c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*pu}, []url.URL{*pu}
		c.InitialCluster = c.InitialClusterFromName(c.Name)
		server, err := embed.StartEtcd(c)
		if err != nil {
			return fmt.Errorf("start etcd: %w", err)
		}
		defer server.Close()
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
		select {
		case <-signals:
			return nil
		case err := <-server.Err():
			return err
		}
	}
	return cmd
}
