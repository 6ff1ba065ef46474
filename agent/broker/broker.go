// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/warren-mesh/warren/mesh/broker"
)

// Broker is one period of work, from lock to hand-over or end.
type Broker struct {
	cfg     Config
	log     *slog.Logger
	gen     string
	dp      datapath
	host    *namespace
	finder  *finder
	spaces  *spaces
	started time.Time
	stop    context.CancelCauseFunc
	work    chan func()
	ended   chan struct{} // closed by the loop
	wg      sync.WaitGroup

	claimMu sync.Mutex
	claimed map[string]bool // ztunnel sockets that have a connection

	greetWait time.Duration // for an agent's Hello
	appeared  chan struct{} // something new in the run directory

	// The loop's.
	pods       map[string]*pod
	agents     map[*agentConn]bool
	ztunnels   map[*ztunnel]bool
	handed     map[string][]handedListener
	exceptions []netip.Prefix // wanted
	drain      time.Duration  // as wire.Settings has it
	unset      bool           // the kernel does not have them yet
	excepting  chore
	saving     chore
	synced     bool // an agent sent a complete list to this broker
	dirty      bool // desired state differs from what is on disk
	verified   time.Time
	drifts     []string
	repairs    uint64
}

// Run works as the node's broker until ctx ends; it then returns nil and leaves everything attached. If another
// broker works, it is asked to hand over; when a later one asks this one, Run stands by until that one ends.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("run broker: %w", err)
	}
	if err := errors.Join(makeRunDir(cfg.RunDir, cfg.RunDirGID), makeStateDir(cfg.StateDir)); err != nil {
		return fmt.Errorf("run broker: %w", err)
	}
	raiseFileLimit(cfg.Log)
	gen := strconv.FormatInt(time.Now().UnixNano(), 36) + "." + strconv.Itoa(os.Getpid())
	l, err := tryLock(cfg.RunDir)
	var handed []handedListener
	if errors.Is(err, errLocked) {
		cfg.Log.Info("another broker works: asking it to hand over")
		if handed, err = askHandover(ctx, cfg.RunDir, gen); err != nil {
			cfg.Log.Warn("waiting for the other broker to end", "err", err)
		}
		l, err = waitLock(ctx, cfg.RunDir, 10*time.Millisecond)
	}
	for {
		if err != nil {
			closeHanded(handed)
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("run broker: %w", err)
		}
		err = runOnce(ctx, cfg, gen, handed)
		l.release()
		if !errors.Is(err, errHandedOver) {
			return err
		}
		cfg.Log.Info("standing by: another broker took over")
		handed = nil
		l, err = standBy(ctx, cfg.RunDir)
	}
}

// standBy waits for the end of the broker that took over, after the time that one has to take the lock.
func standBy(ctx context.Context, dir string) (*lock, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(2 * time.Second):
	}
	return waitLock(ctx, dir, 100*time.Millisecond)
}

func closeHanded(handed []handedListener) {
	for _, h := range handed {
		unix.Close(h.fd)
	}
}

// raiseFileLimit: pools of many pods are in flight at once.
func raiseFileLimit(log *slog.Logger) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur == r.Max {
		return
	}
	r.Cur = r.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		log.Warn("raise the limit of open files", "err", err)
	}
}

// runOnce does the work while the lock is held. It takes the handed listeners over.
func runOnce(ctx context.Context, cfg Config, gen string, handed []handedListener) error {
	b, err := newBroker(cfg, gen)
	if err != nil {
		closeHanded(handed)
		return fmt.Errorf("run broker: %w", err)
	}
	defer b.dp.Close()
	defer b.closeEverything()
	for _, h := range handed {
		b.keepHanded(h)
	}
	ctx, b.stop = context.WithCancelCause(ctx)
	defer b.stop(nil)
	b.restore(ctx)

	path := filepath.Join(cfg.RunDir, wire.SocketName("broker", gen, ""))
	lis, err := wire.Listen(path)
	if err != nil {
		return fmt.Errorf("run broker: %w", err)
	}
	defer os.Remove(path)
	defer lis.Close()
	removeDeadSockets(cfg, path)
	b.wg.Go(func() { b.acceptAgents(ctx, lis) })
	b.wg.Go(func() { b.watchZtunnels(ctx) })
	b.loop(ctx)
	lis.Close()
	b.wg.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errHandedOver) {
		return errHandedOver
	}
	return nil
}

// removeDeadSockets removes those of brokers that were killed: whoever holds the lock is the only one that listens.
func removeDeadSockets(cfg Config, own string) {
	paths, err := wire.SocketPaths(cfg.RunDir, "broker", "")
	for _, p := range paths {
		if p != own {
			err = errors.Join(err, os.Remove(p))
		}
	}
	if err != nil {
		cfg.Log.Warn("remove sockets of earlier brokers", "err", err)
	}
}

func newBroker(cfg Config, gen string) (*Broker, error) {
	f, err := newFinder(cfg)
	if err != nil {
		return nil, err
	}
	load := cfg.load
	if load == nil {
		load = loadDatapath
	}
	dp, err := load(cfg, f.cgroups)
	if err != nil {
		f.host.close()
		return nil, err
	}
	cfg.Log.Info("kernel programs loaded", "cgroup", f.cgroups.pods)
	return &Broker{
		cfg: cfg, log: cfg.Log, gen: gen, dp: dp, greetWait: greetWait, host: f.host, started: time.Now(),
		finder: f,
		spaces: newSpaces(cfg.CreditRate, cfg.CreditBurst),
		work:   make(chan func()), ended: make(chan struct{}), claimed: map[string]bool{}, appeared: make(chan struct{}, 1),
		pods: map[string]*pod{}, agents: map[*agentConn]bool{}, ztunnels: map[*ztunnel]bool{},
		handed: map[string][]handedListener{}, excepting: chore{what: "set exceptions"}, saving: chore{what: "save captures"},
	}, nil
}
