package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/chaos/ledger"
	"github.com/redtask/redtask/internal/redistest"
)

// The lease that the workers of a world have: short, so that much can break in a short time.
const (
	lease    = 3 * time.Second
	renew    = 600 * time.Millisecond
	margin   = time.Second
	interval = 250 * time.Millisecond
	silence  = lease - margin + time.Second // of a dead runner, before a monitor that has just begun takes over; not less than its own

	recoveryBound = lease + interval + time.Second
	mostRecovers  = 5
	capacity      = 50
	places        = 3
)

// kind is what stands behind the workers.
type kind int

const (
	single   kind = iota // one server with appendfsync always, behind proxies
	everysec             // one server with appendfsync everysec
	sentinel             // 1 master, 1 replica, 3 sentinels
	cluster              // 3 masters, 3 replicas
)

// world is one Redis with its workers, its load, and what watches them.
type world struct {
	t        *testing.T
	kind     kind
	dir      string // ledgers and logs
	prefix   string
	book     *ledger.Writer
	binary   string          // of the workers
	settling time.Duration   // what tasks have to end when nothing breaks any more
	quiet    context.Context // ends when nothing is to be disturbed any more

	addrs   []string // of Redis, or of the sentinels
	servers []*redistest.Server
	clock   string                // the file that says how far Redis' clock is off
	stepped atomic.Bool           // that it was
	wires   []*wire               // one per place, the last one is the load's; none in a cluster
	direct  redis.UniversalClient // past all proxies
	rdb     redis.UniversalClient // the load's
	client  *redtask.Client
	watcher *watcher
	places  []*place
	serving sync.WaitGroup

	before    int64 // bytes that Redis used when it was empty
	mu        sync.Mutex
	rng       *rand.Rand
	problems  []string
	mayExits  map[int]bool
	breaks    []int64 // when Redis may have lost writes that it had acknowledged; see ledger.Now
	handOvers []int64 // when the queue's slot changed masters
	pauses    []pause
}

func newWorld(t *testing.T, k kind, seed uint64) *world {
	dir := t.TempDir()
	if *keep != "" {
		dir = filepath.Join(*keep, strings.ReplaceAll(t.Name(), "/", "-"))
		if err := os.RemoveAll(dir); err != nil { // a ledger of an earlier run would be read as of this one
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	book, err := ledger.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, kind: k, dir: dir, prefix: "chaos", book: book, rng: rand.New(rand.NewPCG(seed, 1)), mayExits: map[int]bool{},
		clock: filepath.Join(dir, "clock"),
	}
	s := settings{
		Prefix: w.prefix, Ledger: dir, Lease: lease, Renew: renew, Margin: margin, Interval: interval, Capacity: capacity,
		Recover: mostRecovers, Retention: 1_000_000,
	}
	w.serveRedis(&s)
	w.client, err = redtask.NewClient(w.rdb, redtask.ClientOptions{Prefix: w.prefix, MaxData: 12 << 20})
	if err != nil {
		t.Fatal(err)
	}
	w.watcher = newWatcher(w)
	w.watchFailovers()
	if w.before, err = w.used(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range places {
		own := s
		if w.wires != nil {
			own.Through = map[string]string{w.servers[0].Addr: w.wires[i].addr}
		}
		w.places = append(w.places, newPlace(w, i, own))
	}
	return w
}

// serveRedis starts the servers, and connects to them directly and as the load does.
func (w *world) serveRedis(s *settings) {
	always := []string{
		"--appendonly", "yes", "--appendfsync", "always", "--client-output-buffer-limit", "pubsub 0 0 0", "--enable-debug-command", "local",
	}
	options := &redis.UniversalOptions{
		DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second, MaxRetryBackoff: 100 * time.Millisecond,
	}
	loadOptions := *options
	switch w.kind {
	case single, everysec:
		if w.kind == everysec {
			always[3] = "everysec"
		}
		server := redistest.StartEnv(w.t, w.fakeClock(), always...)
		w.servers = []*redistest.Server{server}
		for range places + 1 {
			w.wires = append(w.wires, newWire(w.t, server.Addr))
		}
		options.Addrs, loadOptions.Addrs = []string{server.Addr}, []string{w.wires[places].addr}
	case sentinel:
		// A master that is merely slow, as on a busy machine, should not be replaced.
		options.Addrs, w.servers = redistest.Sentinels(w.t, 3, 2*time.Second, always...)
		options.MasterName = redistest.SentinelName
		loadOptions.Addrs, loadOptions.MasterName = options.Addrs, options.MasterName
	case cluster:
		w.servers = redistest.ClusterOf(w.t, 3, 1, always...)
		for _, server := range w.servers {
			options.Addrs = append(options.Addrs, server.Addr)
		}
		loadOptions.Addrs = options.Addrs
	}
	w.direct, w.rdb = redis.NewUniversalClient(options), redis.NewUniversalClient(&loadOptions)
	w.addrs = options.Addrs
	s.Addrs, s.Master = options.Addrs, options.MasterName
}

// clockLibrary is testdata/clock.c, built once.
var clockLibrary string

func buildClock(dir string) error {
	clockLibrary = filepath.Join(dir, "clock.so")
	if out, err := exec.Command("cc", "-O2", "-shared", "-fPIC", "-o", clockLibrary, "testdata/clock.c").CombinedOutput(); err != nil {
		return fmt.Errorf("build testdata/clock.c, which needs a C compiler as the race detector does: %w: %s", err, out)
	}
	return nil
}

// fakeClock lets the file w.clock say by how many seconds Redis' clock is off.
func (w *world) fakeClock() []string {
	w.setClock(0)
	return []string{"LD_PRELOAD=" + clockLibrary, "CLOCK_FILE=" + w.clock}
}

// bringForward makes due what a takeover delayed while Redis' clock was ahead, as operations.md says: it would be due as much later.
func (w *world) bringForward() {
	if !w.stepped.Load() {
		return
	}
	w.insist("bring forward what is scheduled", func(ctx context.Context) error {
		late := &redis.ZRangeBy{Min: strconv.FormatInt(time.Now().Add(w.settling/2).UnixMilli(), 10), Max: "+inf"}
		ids, err := w.direct.ZRangeByScore(ctx, w.key("scheduled"), late).Result()
		for _, id := range ids {
			err = errors.Join(err, w.direct.ZAddXX(ctx, w.key("scheduled"), redis.Z{Score: 0, Member: id}).Err())
		}
		return err
	})
}

func (w *world) setClock(off time.Duration) {
	if err := os.WriteFile(w.clock, fmt.Appendf(nil, "%d\n", int(off.Seconds())), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// stepClock sets Redis' clock off, and sees that it is.
func (w *world) stepClock(off time.Duration) {
	w.stepped.Store(true)
	w.setClock(off)
	w.insist("another time in redis", func(ctx context.Context) error {
		now, err := w.direct.Time(ctx).Result()
		if wrong := time.Until(now) - off; err == nil && wrong.Abs() > 5*time.Second {
			err = fmt.Errorf("its clock is off by %s more than asked for", wrong)
		}
		return err
	})
}

// begin starts the workers.
func (w *world) begin() {
	for _, p := range w.places {
		w.serving.Go(p.serve)
	}
}

// end shuts the workers down. A lease may outlive its runner for a while: that of one that could not be sure that nothing comes for it
// any more. Others take it over: here a new worker, which waits for that.
func (w *world) end() {
	var closing sync.WaitGroup
	for _, p := range w.places[1:] {
		closing.Go(p.close)
	}
	before := w.places[0].pid()
	w.places[0].shutdown()
	closing.Wait()
	w.insist("takeover of the leases that are left", func(ctx context.Context) error {
		runners, err := w.client.Runners(ctx)
		if err == nil && (len(runners) != 1 || runners[0].PID == before || runners[0].PID != w.places[0].pid()) {
			err = fmt.Errorf("%d runners: %+v", len(runners), runners)
		}
		return err
	})
	w.places[0].close()
	w.serving.Wait()
}

// close lets go of what end still needed.
func (w *world) close() {
	w.watcher.close()
	_ = w.rdb.Close()
	_ = w.direct.Close()
	for _, wire := range w.wires {
		wire.close()
	}
	_ = w.book.Close()
}

func (w *world) key(suffix string) string {
	return w.prefix + ":{" + redtask.DefaultQueue + "}:" + suffix
}

// problem enters what must not be.
func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// allowExit says that workers may exit with this code.
func (w *world) allowExit(code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mayExits[code] = true
}

func (w *world) mayExit(code int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mayExits[code]
}

// lostWrites enters that Redis may have lost writes now.
func (w *world) lostWrites() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breaks = append(w.breaks, ledger.Now())
}

// overtaking is how long after a hand-over the last events of the old master may still come, behind those of the new one: each node of a
// Cluster sends its events to the others by itself.
const overtaking = 500 * time.Millisecond

// handsOver enters that another master has the queue's slot from now on.
func (w *world) handsOver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handOvers = append(w.handOvers, ledger.Now())
}

// handedOver reports whether that was just before this time.
func (w *world) handedOver(at int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.handOvers, func(h int64) bool { return h <= at && at < h+int64(overtaking) })
}

func (w *world) intN(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// between draws a duration.
func (w *world) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.intN(int(to-from)))
}

// wait lets time pass; false when nothing is to be disturbed any more.
func (w *world) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.quiet.Done():
		return false
	case <-timer.C:
		return true
	}
}

// insist makes a call until it works: what was broken must be mended. It reports whether it was.
func (w *world) insist(what string, call func(context.Context) error) bool {
	err := poll(time.Now().Add(w.settling/2), call)
	if err != nil {
		w.problem("%s: %v", what, err)
	}
	return err == nil
}

// poll makes a call until it works or the time is over, and returns its last error.
func poll(until time.Time, call func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := call(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if <-tick.C; !time.Now().Before(until) {
			return err
		}
	}
}

// pick draws a place whose worker runs.
func (w *world) pick() *place { return w.places[w.intN(len(w.places))] }

// freeAddr is one that nobody listens on.
func freeAddr(t *testing.T) string {
	port, err := redistest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
