// Package redtasktest lets a go test run redtask tasks as production does, through a real client, runner and Redis protocol, with
// nothing to install and nothing left behind.
//
// One line gives a test a Redis of its own, a client and a running runner:
//
//	func TestGreet(t *testing.T) {
//		registry := redtask.NewRegistry()
//		registry.Register("app/greet", redtask.FuncOut(greet))
//		h := redtasktest.New(t, registry)
//
//		result := h.Run("app/greet", person{Name: "Ann"}).RequireState(redtask.StateEnded)
//		require.Equal(t, "hello Ann", redtasktest.Output[string](result))
//		require.Equal(t, []string{"running", "greeting", "ended"}, result.Events.Names())
//	}
//
// Code that only starts tasks is tested without running them:
//
//	func TestSignUp(t *testing.T) {
//		h := redtasktest.NewWith(t, nil, redtasktest.Options{Idle: true})
//		require.NoError(t, signUp(t.Context(), h.Client, "ann@example.com"))
//		h.RequireStarted("app/welcome", welcome{To: "ann@example.com"})
//		h.RequireNotStarted("app/invoice")
//	}
//
// [Harness.Watch] follows a task that runs until it is stopped; [Harness.Collect] waits for its end.
//
// # Which Redis
//
// Tests run on miniredis, inside the test process. With the environment variable REDTASK_TEST_REDIS_URL set, as in
//
//	REDTASK_TEST_REDIS_URL=redis://localhost:6379/0 go test ./...
//
// they run on that server instead: each harness under a key prefix of its own, whose keys are deleted when the test ends. Harnesses share
// nothing, so tests may call t.Parallel.
//
// # Time
//
// With [Options.Clock] a test has a clock of its own, which stands still until [Harness.Advance] moves it. Delays, retries, schedules, rates,
// expiries, unique keys and, until a run begins, deadlines go by it; [Harness.Finish] takes a task through all its retries in no time:
//
//	h := redtasktest.NewWith(t, registry, redtasktest.Options{Clock: time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)})
//	id, err := h.Client.StartWith(t.Context(), "app/remind", mail, redtask.StartOptions{In: 24 * time.Hour})
//	require.NoError(t, err)
//	h.Finish(id).RequireState(redtask.StateEnded).RequireRetries(2)
//
// Timeouts, leases and what a task itself waits for go by the real clock: make them short in tests.
package redtasktest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/builtin"
)

const (
	// Environment is the variable that holds the URL of the Redis to test on; see [Options.RedisURL].
	Environment = "REDTASK_TEST_REDIS_URL"
	// Miniredis as [Options.RedisURL] is the Redis inside the test process, whatever the environment says.
	Miniredis = "miniredis"

	defaultTimeout = 10 * time.Second
)

// Options configure a [Harness]. The zero value works.
type Options struct {
	// Runner is what the runner's options start from. Its Prefix is not used: each harness has its own. Defaults that differ from the
	// engine's: Grace is NoGrace, so that tests end at once; Locals is empty, since nobody dies and little remains in a test, but for the
	// cron with Clock or Runner.Cron; Logger is one whose
	// text is shown if the test fails.
	Runner redtask.RunnerOptions

	// Idle leaves the runner out: tasks that are started stay in line, for [Harness.RequireStarted]. Default false.
	Idle bool

	// Clock is the time at which the test begins, on a clock that [Harness.Advance] moves. The harness then is on Miniredis, whatever
	// the environment says, since no other Redis lets its clock be set. Default: the real clock.
	Clock time.Time

	// RedisURL is the server to test on, `redis://user:password@host:port/db`, `rediss://…` for TLS; no Cluster. Default: what the
	// environment variable REDTASK_TEST_REDIS_URL says, else Miniredis.
	RedisURL string

	// Timeout bounds each wait of the harness, which ends earlier if the test binary's own -timeout is near; the test then fails with what is
	// known of the task. The shutdown has as long, and Runner.Grace. Default 10 s.
	Timeout time.Duration
}

// Harness is a client and a runner for one test, on a Redis where nobody else meets them. Its methods fail the test that it was made for:
// call them from that test's goroutine, and make another harness for a subtest.
type Harness struct {
	Client    *redtask.Client       // for the queue `default`, or the first by name if the runner does not serve that; see ForQueue
	Runner    *redtask.Runner       // nil if Options.Idle
	Redis     redis.UniversalClient // closed when the test ends
	Miniredis *miniredis.Miniredis  // nil on a real server
	Prefix    string                // of all keys, for clients that the code under test makes itself

	t        testing.TB
	fake     bool // the clock is that of Options.Clock
	timeout  time.Duration
	log      *logBuffer
	recorder *recorder
}

// New makes a harness whose runner runs the tasks of registry until the test ends. The runner is then shut down; if it has to leave a
// task behind that ignores its ctx, the test fails.
func New(t testing.TB, registry *redtask.Registry) *Harness {
	t.Helper()
	return NewWith(t, registry, Options{})
}

// NewWith is [New] with options. registry may be nil if the harness is idle.
func NewWith(t testing.TB, registry *redtask.Registry, options Options) *Harness {
	t.Helper()
	if options.Timeout < 0 {
		t.Fatalf("redtasktest: Options.Timeout %s is negative: use 0 for the default", options.Timeout)
	}
	h := &Harness{
		Prefix: "redtasktest-" + rand.Text(), t: t, timeout: cmp.Or(options.Timeout, defaultTimeout), log: &logBuffer{}, recorder: newRecorder(),
	}
	if h.fake = !options.Clock.IsZero(); h.fake {
		if cmp.Or(options.RedisURL, Miniredis) != Miniredis {
			t.Fatalf("redtasktest: Options.Clock with Options.RedisURL %s: the clock of a server cannot be set; leave one of them out", options.RedisURL)
		}
		options.RedisURL = Miniredis
	}
	h.connect(cmp.Or(options.RedisURL, os.Getenv(Environment), Miniredis))
	if h.fake {
		h.Miniredis.SetTime(options.Clock)
	}
	grace := cmp.Or(options.Runner.Grace, redtask.NoGrace)
	t.Cleanup(func() { h.close(max(0, grace)) })
	h.makeClient(options.Runner.Queues)
	if !options.Idle {
		options.Runner.Grace = grace
		h.startRunner(registry, options.Runner)
	}
	return h
}

func (h *Harness) connect(url string) {
	h.t.Helper()
	if url == Miniredis {
		h.Miniredis = miniredis.RunT(h.t)
		h.Redis = redis.NewClient(&redis.Options{Addr: h.Miniredis.Addr()})
		return
	}
	options, err := redis.ParseURL(url)
	if err != nil {
		h.t.Fatalf("redtasktest: the URL of the Redis to test on (%s, or Options.RedisURL): %v", Environment, err)
	}
	h.Redis = redis.NewClient(options)
}

// makeClient records all events from here on, so that those of a task are complete whenever somebody asks.
func (h *Harness) makeClient(queues map[string]int) {
	h.t.Helper()
	names := slices.Sorted(maps.Keys(queues))
	if len(names) == 0 || slices.Contains(names, redtask.DefaultQueue) {
		names = append([]string{redtask.DefaultQueue}, names...)
	}
	client, err := redtask.NewClient(h.Redis, redtask.ClientOptions{Prefix: h.Prefix, Queue: names[0]})
	if err != nil {
		h.t.Fatalf("redtasktest: %v", err)
	}
	h.Client = client
	for _, name := range names {
		h.watch(name)
	}
}

func (h *Harness) watch(queue string) {
	h.t.Helper()
	if err := h.recorder.watch(h.Client.ForQueue(queue)); err != nil {
		h.t.Fatalf("redtasktest: watch queue %q: is Redis there? %v", queue, err)
	}
}

func (h *Harness) startRunner(registry *redtask.Registry, options redtask.RunnerOptions) {
	h.t.Helper()
	options.Prefix = h.Prefix
	if options.Logger == nil {
		options.Logger = slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if options.Locals == nil {
		options.Locals = []redtask.Local{}
	}
	if len(options.Locals) == 0 && (h.fake || len(options.Cron) > 0) {
		options.Locals = []redtask.Local{builtin.Cron(builtin.CronOptions{Logger: options.Logger})}
	}
	runner, err := redtask.NewRunner(h.Redis, registry, options)
	if err == nil {
		err = runner.Start(h.t.Context())
	}
	if err != nil {
		h.t.Fatalf("redtasktest: start the runner: %v", err)
	}
	h.Runner = runner
}

// ForQueue returns the harness for another queue: its Client, Run, Collect and Watch mean that one.
func (h *Harness) ForQueue(queue string) *Harness {
	h.t.Helper()
	other := *h
	other.Client = h.Client.ForQueue(queue)
	h.watch(queue)
	return &other
}

// close ends what the harness began, the latest first; each step is taken whatever became of the one before.
func (h *Harness) close(grace time.Duration) {
	if h.Runner != nil {
		// A second more than the tasks' Stop may take by default: then their ctx is cancelled, and they return.
		ctx, cancel := context.WithTimeout(context.Background(), grace+h.timeout+time.Second)
		defer cancel()
		if err := h.Runner.Shutdown(ctx); err != nil {
			h.t.Errorf("redtasktest: shut down the runner: %v", err)
		}
	}
	h.recorder.close()
	if h.Miniredis == nil {
		if err := h.deleteKeys(); err != nil {
			h.t.Errorf("redtasktest: delete the keys of this test, %s:*: %v", h.Prefix, err)
		}
	}
	_ = h.Redis.Close() // nothing is left to lose
	if text := h.log.take(); h.t.Failed() && text != "" {
		h.t.Log("redtasktest: the runner's log:\n" + text)
	}
}

func (h *Harness) deleteKeys() error {
	ctx, cancel := context.WithTimeout(context.Background(), max(h.timeout, defaultTimeout))
	defer cancel()
	keys, err := h.scan(ctx, "*")
	if err != nil || len(keys) == 0 {
		return err
	}
	var faults []error
	for some := range slices.Chunk(keys, 1000) {
		faults = append(faults, h.Redis.Del(ctx, some...).Err())
	}
	return errors.Join(faults...)
}

// scan lists the keys whose names go on with pattern. SCAN may name a key twice, but never misses one that is there all the time.
func (h *Harness) scan(ctx context.Context, pattern string) ([]string, error) {
	var keys []string
	each := h.Redis.Scan(ctx, 0, h.Prefix+":"+pattern, 1000).Iterator()
	for each.Next(ctx) {
		keys = append(keys, each.Val())
	}
	if err := each.Err(); err != nil {
		return nil, fmt.Errorf("scan the keys of prefix %s: %w", h.Prefix, err)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// patience is how long a wait may last: the rest of the test's time is for saying why, and for shutting down.
func (h *Harness) patience() time.Duration {
	patience := h.timeout
	if t, ok := h.t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := t.Deadline(); ok {
			left := time.Until(deadline)
			patience = min(patience, left-min(left/4, 5*time.Second))
		}
	}
	return patience
}

// maxLog bounds what is kept of the runner's log: the end tells why.
const maxLog = 64 << 10

type logBuffer struct {
	mu   sync.Mutex
	text []byte
	cut  bool
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if len(b.text) > 2*maxLog {
		b.text, b.cut = slices.Clone(b.text[len(b.text)-maxLog:]), true
	}
	return len(p), nil
}

// take returns the log since the last take.
func (b *logBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := strings.TrimSpace(string(b.text))
	if b.cut {
		text = "(cut) …" + text
	}
	b.text, b.cut = nil, false
	return text
}
