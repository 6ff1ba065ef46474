// SPDX-License-Identifier: Apache-2.0

// Command echo is what the harness's own test runs in pods: a server that says who it is and who asks, and a client.
//
//	echo serve ADDRESS        HTTP server
//	echo get tcp4|tcp6 URL    prints the answer
//	echo exit STATUS
//	echo cat FILE             prints the file
//	echo webhook ADDRESS DIR  admission webhook that refuses everything; DIR holds tls.crt and tls.key
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		status = 1
	}
	os.Exit(status)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return 0, serve(args[1])
	case len(args) == 3 && args[0] == "get":
		return 0, get(args[1], args[2])
	case len(args) == 2 && args[0] == "exit":
		return strconv.Atoi(args[1])
	case len(args) == 2 && args[0] == "cat":
		b, err := os.ReadFile(args[1])
		fmt.Printf("%s", b)
		return 0, err
	case len(args) == 3 && args[0] == "webhook":
		return 0, http.ListenAndServeTLS(args[1], filepath.Join(args[2], "tls.crt"), filepath.Join(args[2], "tls.key"), http.HandlerFunc(refuse))
	}
	return 2, fmt.Errorf("want serve, get, exit, cat or webhook")
}

func serve(address string) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("ask for own name: %w", err)
	}
	fmt.Println("serving as", host)
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s", host, client)
	}))
}

func get(network, url string) error {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		}}}
	r, err := client.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

// refuse answers an AdmissionReview.
func refuse(w http.ResponseWriter, r *http.Request) {
	var review struct{ Request struct{ UID string } }
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"response": map[string]any{"uid": review.Request.UID, "allowed": false, "status": map[string]any{"message": "refused by echo"}}})
}
