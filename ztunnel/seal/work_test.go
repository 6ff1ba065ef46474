// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/warren-mesh/warren/ztunnel/metrics"
)

const dialSockets = 12 // passed from descriptor 3 on, then two listeners

// work is a sealed process's day: everything on descriptors it was given.
func work() error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	process, err := metrics.OpenProcess("/proc")
	if err != nil {
		return err
	}
	if err := Seal(Kill); err != nil {
		return err
	}
	sockets := make(chan int, dialSockets)
	for i := range dialSockets {
		sockets <- passedSocket + i
	}
	first, err := listenerOf(passedSocket + dialSockets)
	if err != nil {
		return err
	}
	second, err := listenerOf(passedSocket + dialSockets + 1)
	if err != nil {
		return err
	}
	dial := func(to net.Addr) (*net.TCPConn, error) { return connect(<-sockets, to.(*net.TCPAddr)) }
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"tls", func() error { return handshake(first, dial, certificate) }},
		{"splice", func() error { return splice(first, dial) }},
		{"grpc", func() error { return overGRPC(second, dial) }},
		{"runtime", runtimeGrows},
		{"process", func() error { return measured(process) }},
		{"clock", func() error {
			_ = time.Now().Local().Format(time.RFC1123)
			return nil
		}},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Println(step.name)
	}
	return nil
}

// measured reads what the process takes.
func measured(p *metrics.Process) error {
	r := prometheus.NewRegistry()
	r.MustRegister(p)
	families, err := r.Gather()
	if err == nil && len(families) < 5 {
		err = fmt.Errorf("%d metrics of the process", len(families))
	}
	return err
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func listenerOf(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	return net.FileListener(f)
}

func connect(fd int, to *net.TCPAddr) (*net.TCPConn, error) {
	f := os.NewFile(uintptr(fd), "dial")
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil && err != unix.EINPROGRESS {
		return nil, err
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := rc.Write(func(fd uintptr) bool {
		_, err := unix.Getpeername(int(fd))
		return err == nil
	}); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

type dialer func(net.Addr) (*net.TCPConn, error)

func handshake(l net.Listener, dial dialer, certificate tls.Certificate) error {
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
		_, err = io.Copy(s, io.LimitReader(s, 5))
		served <- err
	}()
	c, err := dial(l.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) // the handshake is what is tried
	if _, err := io.WriteString(t, "hello"); err != nil {
		return err
	}
	if _, err := io.ReadFull(t, make([]byte, 5)); err != nil {
		return err
	}
	return <-served
}

// splice carries 1 MiB from one connection to another inside the kernel.
func splice(l net.Listener, dial dialer) error {
	var ends [4]*net.TCPConn
	for i := range 2 {
		c, err := dial(l.Addr())
		if err != nil {
			return err
		}
		a, err := l.Accept()
		if err != nil {
			return err
		}
		ends[2*i], ends[2*i+1] = c, a.(*net.TCPConn)
	}
	payload := make([]byte, 1<<20)
	if _, err := rand.Read(payload); err != nil {
		return err
	}
	go func() {
		_, _ = ends[0].Write(payload)
		_ = ends[0].CloseWrite()
	}()
	go func() {
		_, _ = io.Copy(ends[2], ends[1])
		_ = ends[2].CloseWrite()
	}()
	got, err := io.ReadAll(ends[3])
	if err == nil && !bytes.Equal(got, payload) {
		err = fmt.Errorf("%d bytes came, or others", len(got))
	}
	return err
}

func overGRPC(l net.Listener, dial dialer) error {
	s := grpc.NewServer()
	healthgrpc.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	cc, err := grpc.NewClient("passthrough:///10.0.0.1:15012", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return dial(l.Addr()) }))
	if err != nil {
		return err
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = healthgrpc.NewHealthClient(cc).Check(ctx, &healthgrpc.HealthCheckRequest{})
	return err
}

// runtimeGrows makes threads, garbage, stacks and timers.
func runtimeGrows() error {
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			runtime.LockOSThread() // never unlocked: threads end as well
			time.Sleep(5 * time.Millisecond)
		})
	}
	for range 2000 {
		wg.Go(func() {
			b := make([]byte, 64<<10)
			b[len(b)-1] = 1
			t := time.NewTimer(time.Millisecond)
			<-t.C
			runtime.Gosched()
		})
	}
	wg.Wait()
	for range 3 {
		runtime.GC()
	}
	runtime.GOMAXPROCS(1)
	runtime.GOMAXPROCS(4)
	// A loop that must be preempted by a signal.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
		}
	}()
	runtime.GC()
	<-done
	return nil
}
