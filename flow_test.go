package redtask

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/cleanup"
	"github.com/redtask/redtask/internal/store"
)

// forgetful is the same server through a client of its own that loses every so manieth answer to a script.
func (e *env) forgetful(t *testing.T, every int64) *env {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(&lossy{every: every})
	return &env{rdb: rdb, prefix: e.prefix, mini: e.mini, log: e.log}
}

// Two runners that lose answers: limits, rates, order and priorities hold, every task runs, and none of them leaves anything behind.
func TestFlowWithLostReplies(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		m := newMeter()
		const per = 50 * time.Millisecond
		registry := limited(m, Limits{Concurrency: 4, KeyConcurrency: 2, Rate: Rate{N: 20, Per: per}, KeyRate: Rate{N: 10, Per: per}})
		forgetful := e.forgetful(t, 5)
		forgetful.runner(t, registry, nil)
		forgetful.runner(t, registry, nil)
		client := e.client(t)
		keys := []string{"a", "b", "", "ordered"}
		ids := startAll(t, client, requests(80, func(i int) string { return keys[i%4] }, func(i int, o *StartOptions) {
			o.Priority = []Priority{PriorityLow, PriorityNormal, PriorityHigh}[i%3]
			o.Ordered = o.Key == "ordered"
		}))
		var begun []int64
		var want []string
		for i, id := range ids {
			record := wait(t, client, id)
			require.Equal(t, StateEnded, record.State)
			begun = append(begun, record.StartedAt.UnixMilli())
			if i%4 == 3 {
				want = append(want, id)
			}
		}
		requireRate(t, begun, 20, per)
		require.LessOrEqual(t, m.peak("all"), 4)
		require.LessOrEqual(t, m.peak("a"), 2)
		require.LessOrEqual(t, m.peak("b"), 2)
		require.Equal(t, 1, m.peak("ordered"))
		require.Equal(t, want, slices.DeleteFunc(m.order, func(id string) bool { return !slices.Contains(want, id) }))
		e.requireNothingHeld(t)
	})
}

// Two runners that lose answers, in the middle of their work: paused, they start nothing and lose nothing; resumed, they go on at once,
// although neither renews its lease.
func TestPauseOfTwoBusyRunners(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		m := newMeter()
		registry := limited(m, Limits{Concurrency: 3})
		forgetful := e.forgetful(t, 7)
		runners := []*Runner{forgetful.runner(t, registry, longLease), forgetful.runner(t, registry, longLease)}
		client, ctx := e.client(t), testContext(t)
		started := func() int {
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.order)
		}
		ids := startAll(t, client, requests(100, func(int) string { return "" }, func(i int, o *StartOptions) {
			o.Priority = []Priority{PriorityNormal, PriorityHigh}[i%2]
		}))
		eventually(t, "they are busy", func() bool { return started() > 10 })
		require.NoError(t, client.Pause(ctx))
		eventually(t, "what runs ends", func() bool { c, err := client.Counts(ctx); return err == nil && c.Running == 0 })
		n := started()
		require.Less(t, n, 100)
		ids = append(ids, startAll(t, client, []StartRequest{{Task: "test/limited"}, {Task: "test/limited", Options: StartOptions{Priority: PriorityHigh}}})...)
		for _, runner := range runners {
			c := runner.engines["default"].committer
			c.woken() // as by an ID in line
			eventually(t, "it knows that the queue is paused", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.paused && !c.hungry && len(c.flights) == 0
			})
		}
		require.Equal(t, n, started())
		require.NoError(t, client.Resume(ctx))
		require.NoError(t, client.Resume(ctx), "again")
		for _, id := range ids {
			require.Equal(t, StateEnded, wait(t, client, id).State)
		}
		require.LessOrEqual(t, m.peak("all"), 3)
		e.requireNothingHeld(t)
	})
}

// A runner dies while the queue is paused: its tasks come back in line, and wait there with the others.
func TestPausedQueueOfADeadRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		require.NoError(t, client.Pause(ctx))
		e.dead(t, "dead", `{"priority":"high"}`)
		start(t, client, "test/block", nil)
		e.do(t, "LMOVE", e.key("wait"), e.key("inbox:dead"), "RIGHT", "LEFT")
		b := newBlocker()
		runner := e.runner(t, blockRegistry(b), fastLease)
		eventually(t, "taken over", func() bool { return e.rdb.Exists(ctx, e.key("runner:dead"), e.key("inbox:dead")).Val() == 0 })
		record, err := client.Get(ctx, "dead")
		require.NoError(t, err)
		require.Equal(t, StateWait, record.State)
		lookOnce(t, runner.engines["default"])
		require.Empty(t, b.running)
		require.NoError(t, client.Resume(ctx))
		receive(t, "runs", b.running)
		receive(t, "runs", b.running)
	})
}

// dead makes a task that a runner had which died a minute ago.
func (e *env) dead(t *testing.T, id, options string) {
	t.Helper()
	past := time.Now().Add(-time.Minute).UnixMilli()
	e.do(t, "HSET", e.key("task:"+id), "task", "test/block", "state", "RUNNING", "epoch", 1, "attempt", 1, "runner", "dead", "started_at", past, "options", options)
	e.do(t, "SADD", e.key("running:dead"), "1:"+id)
	e.do(t, "HSET", e.key("runner:dead"), "batch", 1, "silence_ms", 1)
	e.do(t, "ZADD", e.key("runners"), past, "dead")
}

// The first of an order is a dead runner's: it runs again before those behind it.
func TestOrderOfADeadRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		e.dead(t, "first", `{"key":"k","ordered":true}`)
		e.do(t, "ZADD", e.key("order:k"), 0, "first")
		for _, priority := range []Priority{PriorityHigh, PriorityNormal} {
			_, err := client.StartWith(ctx, "test/block", nil, StartOptions{ID: "after " + string(priority), Key: "k", Ordered: true, Priority: priority})
			require.NoError(t, err)
		}
		b := newBlocker()
		for range 2 {
			e.runner(t, blockRegistry(b), fastLease)
		}
		for _, want := range []string{"first", "after " + string(PriorityHigh), "after " + string(PriorityNormal)} {
			require.Equal(t, want, receive(t, want, b.running).ID())
			require.Empty(t, b.running, "one at a time")
			require.NoError(t, client.Stop(ctx, want))
		}
		e.requireNothingHeld(t)
	})
}

// Whatever becomes of an ordered task, also if it never runs, the next one of its key comes.
func TestOrderGoesOnAfterAnyEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/fine", Func(func(context.Context, int) error { return nil }))
		registry.RegisterWith("test/retried", Func(func(context.Context, int) error { return errSurprise }),
			TaskOptions{Retry: &Retry{Attempts: 2, Backoff: Constant(time.Millisecond)}})
		registry.Register("test/error", Func(func(context.Context, int) error { return Fail(errors.New("no")) }))
		registry.Register("test/panic", Func(func(context.Context, int) error { panic("oh") }))
		registry.Register("test/slow", Func(func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }))
		client, ctx := e.client(t), testContext(t)
		var ids []string
		add := func(task string, data any, change func(o *StartOptions)) {
			o := StartOptions{Key: "k", Ordered: true}
			if change != nil {
				change(&o)
			}
			id, err := client.StartWith(ctx, task, data, o)
			require.NoError(t, err)
			ids = append(ids, id)
		}
		add("test/fine", 1, func(o *StartOptions) { o.Expiry = time.Hour })
		expired := ids[0]
		add("test/fine", "no number", nil)
		add("test/retried", 1, nil)
		add("test/error", 1, nil)
		add("test/panic", 1, nil)
		add("test/slow", 1, func(o *StartOptions) { o.Timeout = 10 * time.Millisecond })
		add("test/unknown", 1, nil)
		add("test/fine", 1, nil)
		bad := ids[len(ids)-1]
		add("test/fine", 1, nil)
		e.do(t, "HSET", e.key("task:"+expired), "expires_at", 1)
		e.do(t, "HSET", e.key("task:"+bad), "options", `{"key":"k","ordered":true,"timeout_ms":"long"}`)
		e.runner(t, registry, longLease)
		var last time.Time
		for i, id := range ids {
			record := wait(t, client, id)
			want := StateException
			if i == 3 {
				want = StateError
			} else if i == len(ids)-1 {
				want = StateEnded
			}
			require.Equal(t, want, record.State, record.Task)
			require.False(t, record.StartedAt.Before(last), "it began when the one before was final")
			last = record.EndedAt
		}
		e.requireNothingHeld(t)
	})
}

// documentedKeys are patterns of the keys that docs/protocol.md lists.
func (e *env) documentedKeys(t *testing.T) []*regexp.Regexp {
	t.Helper()
	text, err := os.ReadFile("docs/protocol.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "\n## Keys\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\nChannels:")
	var all []*regexp.Regexp
	for _, name := range regexp.MustCompile("`P:([^` ]+)`").FindAllStringSubmatch(table, -1) {
		pattern := strings.Replace(regexp.QuoteMeta(name[1]), `\{Q\}`, `\{default\}`, 1)
		pattern = regexp.MustCompile(`:(ID|RUNNER|KEY|L|STATE|NAME)$`).ReplaceAllString(pattern, ":.+")
		all = append(all, regexp.MustCompile("^"+e.prefix+":"+pattern+"$"))
	}
	require.Greater(t, len(all), 20)
	return all
}

// While tasks of all kinds run there is no key that is not documented; and when they are swept and the runners have left, none but those
// that belong to the queue.
func TestKeysThatStay(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		m := newMeter()
		registry := limited(m, Limits{Concurrency: 4, KeyConcurrency: 2, Rate: Rate{N: 30, Per: 50 * time.Millisecond}, KeyRate: Rate{N: 20, Per: 50 * time.Millisecond}})
		registry.RegisterWith("test/flaky", failing(errSurprise), TaskOptions{Retry: &Retry{Attempts: 2, Backoff: Constant(time.Millisecond)}, LogLines: 5})
		registry.RegisterWith("test/rate", m.task(), TaskOptions{Limits: Limits{KeyRate: Rate{N: 1, Per: time.Millisecond}}})
		sweep := func(o *RunnerOptions) {
			o.Locals = []Local{{Name: cleanup.Name, New: func() Task {
				var all []store.Retention
				for _, state := range []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED"} {
					all = append(all, store.Retention{State: state, Age: time.Millisecond})
				}
				return cleanup.New(cleanup.Options{Interval: 10 * time.Millisecond, Retention: all, Logger: o.Logger})
			}}}
		}
		client, ctx := e.client(t), testContext(t)
		runners := []*Runner{e.runner(t, registry, sweep), e.runner(t, registry, sweep)}
		keys, names := []string{"a", "b", ""}, []string{"test/limited", "test/flaky", "test/rate", "test/unknown"}
		all := requests(120, func(i int) string { return keys[i%3] }, func(i int, o *StartOptions) {
			o.Ordered = i%4 == 0 && o.Key != ""
			o.Priority = []Priority{PriorityLow, PriorityNormal, PriorityHigh}[i%5%3]
			o.Once = []Once{{}, Unique(o.ID, 0), Throttle(o.ID, 100*time.Millisecond), Debounce(o.ID, time.Millisecond, 0)}[i%7%4]
		})
		for i := range all {
			all[i].Task = names[i%11%4]
		}
		ids := startAll(t, client, all)
		for _, id := range ids[:20] {
			require.NoError(t, ignore(client.Stop(ctx, id), ErrNotFound, ErrFinal))
		}
		for _, id := range ids[20:30] {
			require.NoError(t, ignore(client.Remove(ctx, id), ErrRunning))
		}
		documented := e.documentedKeys(t)
		left := func() []string {
			found, err := e.rdb.Keys(ctx, e.prefix+":*").Result()
			require.NoError(t, err)
			for _, key := range found {
				require.True(t, slices.ContainsFunc(documented, func(p *regexp.Regexp) bool { return p.MatchString(key) }), key)
			}
			slices.Sort(found)
			return found
		}
		eventually(t, "all are swept", func() bool {
			return !slices.ContainsFunc(left(), func(key string) bool {
				return slices.ContainsFunc(ids, func(id string) bool { return key == e.key("task:"+id) })
			})
		})
		for _, runner := range runners {
			require.NoError(t, shutdown(t, runner))
		}
		owned := []string{e.prefix + ":protocol", e.prefix + ":queues", e.key("counters"), e.key("epoch"), e.key("cleaner")}
		if e.mini != nil { // it has no CLIENT UNBLOCK: a lease that may yet get an ID ends by itself; and no key ends without this
			owned = append(owned, e.key("runners"), e.key("runner:"+runners[0].ID()), e.key("runner:"+runners[1].ID()))
			e.mini.FastForward(time.Second)
		}
		require.NotEqual(t, time.Duration(-1), e.rdb.PTTL(ctx, e.key("cleaner")).Val(), "it has a TTL, of a minute at most")
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			assert.Subset(c, owned, left(), "only those of the queue stay")
		}, 20*time.Second, time.Millisecond)
	})
}

func ignore(err error, what ...error) error {
	for _, e := range what {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
