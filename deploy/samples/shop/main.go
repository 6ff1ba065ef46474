// SPDX-License-Identifier: Apache-2.0

// Command shop is a sample application: each verb is one service of it.
//
//	shop web -listen :8080 -cart URL -orders HOST:PORT   takes purchases, reserves, orders
//	shop cart -listen :8080 -inventory URL               reserves
//	shop inventory -listen :8080                         counts down
//	shop orders -listen :7000                            a protocol whose server speaks first
//	shop buy -card NUMBER [-n 1] [-every 1s] URL         a customer
//	shop idle                                            a customer who waits to be told what to buy, by kubectl exec
//
// A purchase carries the customer's card number through every service, so that whoever reads along on the way sees it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	verbs := map[string]func(context.Context, []string, io.Writer) error{
		"web": web, "cart": cart, "inventory": inventory, "orders": orders, "buy": buy, "idle": idle,
	}
	if len(args) == 0 || verbs[args[0]] == nil {
		return errors.New("want one of web, cart, inventory, orders, buy, idle")
	}
	return verbs[args[0]](ctx, args[1:], out)
}

// client makes a connection for every request, so that each shows up by itself.
var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// post sends the card number on and returns the answer.
func post(ctx context.Context, url, card string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(card))
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", url, resp.Status, strings.TrimSpace(string(b)))
	}
	return string(b), nil
}

// buy is the customer: one purchase, several, or one every so often until it is stopped.
func buy(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("buy", flag.ContinueOnError)
	card := fs.String("card", "", "the customer's card number")
	n := fs.Int("n", 1, "how many purchases")
	every := fs.Duration("every", 0, "buy again and again, this often")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return errors.New("buy: want the URL of the shop")
	}
	for i := 0; i < *n || *every > 0; i++ {
		answer, err := post(ctx, fs.Arg(0), *card)
		if err != nil && *every == 0 {
			return err
		}
		if err != nil {
			fmt.Fprintln(out, err)
		} else {
			fmt.Fprint(out, answer)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(*every):
		}
	}
	return nil
}

// idle waits to be stopped.
func idle(ctx context.Context, _ []string, _ io.Writer) error {
	<-ctx.Done()
	return nil
}
