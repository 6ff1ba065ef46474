// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// web takes a purchase: it reserves in the cart and passes the order on.
func web(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("web", flag.ContinueOnError)
	listen := fs.String("listen", ":8080", "address to listen on")
	cart := fs.String("cart", "", "URL of the cart")
	orders := fs.String("orders", "", "address of orders")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return serve(ctx, *listen, out, func(ctx context.Context, card string) (string, error) {
		reserved, err := post(ctx, *cart, card)
		if err != nil {
			return "", err
		}
		queued, err := order(ctx, *orders, card)
		return reserved + queued, err
	})
}

// cart reserves what the inventory has.
func cart(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("cart", flag.ContinueOnError)
	listen := fs.String("listen", ":8080", "address to listen on")
	inventory := fs.String("inventory", "", "URL of the inventory")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return serve(ctx, *listen, out, func(ctx context.Context, card string) (string, error) {
		taken, err := post(ctx, *inventory, card)
		return taken + "cart: reserved\n", err
	})
}

// inventory counts down.
func inventory(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("inventory", flag.ContinueOnError)
	listen := fs.String("listen", ":8080", "address to listen on")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var stock atomic.Int64
	stock.Store(1_000_000)
	return serve(ctx, *listen, out, func(_ context.Context, card string) (string, error) {
		return fmt.Sprintf("inventory: %d left\n", stock.Add(-1)), nil
	})
}

// serve answers POST requests that carry a card number, until ctx ends.
func serve(ctx context.Context, address string, out io.Writer, handle func(ctx context.Context, card string) (string, error)) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		card, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := handle(r.Context(), string(card))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(out, "%s from %s\n", r.URL.Path, r.RemoteAddr)
		fmt.Fprint(w, answer)
	})
	s := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { s.Close() })
	if err := s.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

// orders greets whoever connects, takes one line, and says that it is queued.
func orders(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("orders", flag.ContinueOnError)
	listen := fs.String("listen", ":7000", "address to listen on")
	if err := fs.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go take(c, out)
	}
}

func take(c net.Conn, out io.Writer) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "220 orders\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); err == nil && strings.HasPrefix(line, "ORDER ") {
		fmt.Fprint(c, "250 queued\n")
		fmt.Fprintf(out, "order from %s\n", c.RemoteAddr())
	}
}

// order waits for the greeting before it says a word.
func order(ctx context.Context, address, card string) (string, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(c)
	if greeting, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(greeting, "220 ") {
		return "", fmt.Errorf("orders at %s: greeting %q: %w", address, greeting, err)
	}
	if _, err := fmt.Fprintf(c, "ORDER %s\n", card); err != nil {
		return "", err
	}
	answer, err := in.ReadString('\n')
	return "orders: " + answer, err
}
