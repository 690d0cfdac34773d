package redtask

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// meter counts how many tasks run at once, in all and by key.
type meter struct {
	mu     sync.Mutex
	now    map[string]int
	most   map[string]int
	starts []time.Time
	order  []string
}

func newMeter() *meter { return &meter{now: map[string]int{}, most: map[string]int{}} }

func (m *meter) add(n int, names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		m.now[name] += n
		m.most[name] = max(m.most[name], m.now[name])
	}
}

func (m *meter) peak(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most[name]
}

// task runs for a moment, and is counted meanwhile.
func (m *meter) task() Factory {
	return Func(func(ctx context.Context, _ any) error {
		run := FromContext(ctx)
		m.mu.Lock()
		m.starts, m.order = append(m.starts, time.Now()), append(m.order, run.ID())
		m.mu.Unlock()
		m.add(1, "all", run.Key())
		defer m.add(-1, "all", run.Key())
		pause(ctx, 2*time.Millisecond)
		return nil
	})
}

func limited(m *meter, limits Limits) *Registry {
	registry := NewRegistry()
	registry.RegisterWith("test/limited", m.task(), TaskOptions{Limits: limits})
	return registry
}

func requests(n int, key func(i int) string, change func(i int, o *StartOptions)) []StartRequest {
	all := make([]StartRequest, n)
	for i := range all {
		all[i] = StartRequest{Task: "test/limited", Options: StartOptions{ID: fmt.Sprintf("id%03d", i), Key: key(i)}}
		if change != nil {
			change(i, &all[i].Options)
		}
	}
	return all
}

func startAll(t *testing.T, client *Client, requests []StartRequest) []string {
	t.Helper()
	ids, err := client.StartMany(testContext(t), requests)
	require.NoError(t, err)
	return ids
}

// requireNothingHeld: no place, no line and no timer outlives the tasks.
func (e *env) requireNothingHeld(t *testing.T) {
	t.Helper()
	left := func() []string {
		keys, err := e.rdb.Keys(testContext(t), e.prefix+":*").Result()
		require.NoError(t, err)
		return slices.DeleteFunc(keys, func(key string) bool {
			for _, kind := range []string{"limit:", "held:", "order:", "once:", "wait", "scheduled"} {
				if strings.HasPrefix(key, e.key(kind)) {
					return false
				}
			}
			return true
		})
	}
	eventually(t, "nothing is held", func() bool { return len(left()) == 0 })
}

// Two runners with slots for 20 run no more at once than the limits say, in all and of each key, and all of them in the end.
func TestConcurrencyLimits(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		m := newMeter()
		registry := limited(m, Limits{Concurrency: 5, KeyConcurrency: 2})
		e.runner(t, registry, nil)
		e.runner(t, registry, nil)
		client := e.client(t)
		keys := []string{"a", "b", "c", "d", ""}
		ids := startAll(t, client, requests(120, func(i int) string { return keys[i%len(keys)] }, nil))
		for _, id := range ids {
			require.Equal(t, StateEnded, wait(t, client, id).State)
		}
		require.LessOrEqual(t, m.peak("all"), 5)
		require.Greater(t, m.peak("all"), 1, "the places are used")
		for _, key := range keys[:4] {
			require.LessOrEqual(t, m.peak(key), 2)
		}
		e.requireNothingHeld(t)
	})
}

// Those that are held back do not hold up others, and keep their order.
func TestHeldTasksKeepTheirOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		m, b := newMeter(), newBlocker()
		registry := limited(m, Limits{KeyConcurrency: 1})
		registry.RegisterWith("test/block", b.factory, TaskOptions{Limits: Limits{KeyConcurrency: 1}})
		registry.Register("test/free", Func(func(context.Context, any) error { return nil }))
		e.runner(t, registry, nil)
		client := e.client(t)
		startAll(t, client, []StartRequest{{Task: "test/block", Options: StartOptions{ID: "first", Key: "k"}}})
		receive(t, "runs", b.running)
		behind := startAll(t, client, []StartRequest{
			{Task: "test/block", Options: StartOptions{ID: "second", Key: "k"}}, {Task: "test/block", Options: StartOptions{ID: "third", Key: "k"}},
			{Task: "test/free"},
		})
		require.Equal(t, StateEnded, wait(t, client, behind[2]).State)
		record, err := client.Get(testContext(t), "second")
		require.NoError(t, err)
		require.Equal(t, StateWait, record.State)
		require.Equal(t, "test/block:k", record.HeldBy)
		counts, err := client.Counts(testContext(t))
		require.NoError(t, err)
		require.EqualValues(t, 2, counts.Held)
		require.NoError(t, client.Stop(testContext(t), "first"))
		require.Equal(t, "second", receive(t, "next", b.running).ID())
		require.NoError(t, client.Stop(testContext(t), "second"))
		require.Equal(t, "third", receive(t, "next", b.running).ID())
		require.NoError(t, client.Stop(testContext(t), "third"))
		require.Equal(t, StateStopped, wait(t, client, "third").State)
		e.requireNothingHeld(t)
	})
}

// One that is stopped, removed or put off while it is held, or after it was brought forward, does not take a place with it.
func TestHeldTasksThatGo(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.RegisterWith("test/block", b.factory, TaskOptions{Limits: Limits{Concurrency: 1}})
		e.runner(t, registry, nil)
		client, ctx := e.client(t), testContext(t)
		var requests []StartRequest
		for i := range 5 {
			requests = append(requests, StartRequest{Task: "test/block", Options: StartOptions{ID: fmt.Sprint(i)}})
		}
		startAll(t, client, requests)
		require.Equal(t, "0", receive(t, "runs", b.running).ID())
		eventually(t, "four are held", func() bool { c, err := client.Counts(ctx); return err == nil && c.Held == 4 })
		require.NoError(t, client.Stop(ctx, "1"))
		require.NoError(t, client.Remove(ctx, "2"))
		require.NoError(t, client.RescheduleIn(ctx, "3", time.Hour))
		require.NoError(t, client.Stop(ctx, "0"))
		require.Equal(t, "4", receive(t, "runs", b.running).ID())
		require.NoError(t, client.Stop(ctx, "4"))
		require.NoError(t, client.RescheduleIn(ctx, "3", 0))
		require.Equal(t, "3", receive(t, "runs", b.running).ID())
		require.NoError(t, client.Stop(ctx, "3"))
		e.requireNothingHeld(t)
	})
}

// A runner that dies frees its places: they are its lease's, not a counter's.
func TestDeadHolder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.RegisterWith("test/block", b.factory, TaskOptions{Limits: Limits{Concurrency: 1}})
		client := e.client(t)
		startAll(t, client, []StartRequest{{Task: "test/block", Options: StartOptions{ID: "held", Key: "k", Ordered: true}}})
		past := time.Now().Add(-time.Minute).UnixMilli()
		e.do(t, "HSET", e.key("task:dead"), "task", "test/block", "state", "RUNNING", "epoch", 1, "attempt", 1, "runner", "dead", "started_at", past)
		e.do(t, "SADD", e.key("running:dead"), "1:dead")
		e.do(t, "SADD", e.key("limit:test/block"), "dead", "a task that nobody knows")
		e.do(t, "HSET", e.key("runner:dead"), "batch", 1, "silence_ms", 1)
		e.do(t, "ZADD", e.key("runners"), past, "dead")
		e.runner(t, registry, func(o *RunnerOptions) { fastLease(o) })
		for range 2 { // the second one when the timer has found the place that nobody has
			run := receive(t, "runs", b.running)
			require.NoError(t, client.Stop(testContext(t), run.ID()))
		}
		e.requireNothingHeld(t)
	})
}

// No window of the interval, wherever it begins, has more starts than the rate, by the clock of Redis.
func TestRates(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		m := newMeter()
		const per = 100 * time.Millisecond
		registry := limited(m, Limits{Rate: Rate{N: 5, Per: per}, KeyRate: Rate{N: 2, Per: per}})
		noLook := func(o *RunnerOptions) { // the runners wake for the rate, not for a renewal
			longLease(o)
			o.Locals = []Local{}
		}
		e.runner(t, registry, noLook)
		e.runner(t, registry, noLook)
		client := e.client(t)
		ids := startAll(t, client, requests(23, func(i int) string { return []string{"a", "b", "", "c"}[i%4] }, nil))
		begun, byKey := []int64{}, map[string][]int64{}
		for _, id := range ids {
			record := wait(t, client, id)
			require.Equal(t, StateEnded, record.State)
			begun = append(begun, record.StartedAt.UnixMilli())
			byKey[record.Key] = append(byKey[record.Key], record.StartedAt.UnixMilli())
		}
		requireRate(t, begun, 5, per)
		delete(byKey, "")
		for _, starts := range byKey {
			requireRate(t, starts, 2, per)
		}
	})
}

func requireRate(t *testing.T, begun []int64, n int, per time.Duration) {
	t.Helper()
	slices.Sort(begun)
	for i := n; i < len(begun); i++ {
		require.GreaterOrEqual(t, begun[i]-begun[i-n], per.Milliseconds(), "starts %d and %d of %v", i-n, i, begun)
	}
}

// Ordered tasks of a key run one after the other in the order of their starts, on whichever runner, also when one is retried.
func TestOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		m := newMeter()
		registry := NewRegistry()
		registry.RegisterWith("test/limited", func() Task {
			return (&script{start: func(ctx context.Context) error {
				if err := m.task()().Start(ctx); err != nil {
					return err
				}
				if run := FromContext(ctx); run.ID() == "id003" && run.Attempt() < 3 {
					return errSurprise
				}
				return nil
			}}).task()
		}, TaskOptions{Retry: &Retry{Attempts: 3, Backoff: Constant(time.Millisecond)}})
		for range 3 {
			e.runner(t, registry, nil)
		}
		client := e.client(t)
		all := requests(60, func(i int) string { return []string{"a", "b"}[i%2] }, func(i int, o *StartOptions) {
			o.Ordered = true
			o.Priority = []Priority{PriorityLow, PriorityHigh}[i%2]
		})
		ids := startAll(t, client, all[:30])
		for _, request := range all[30:] { // one by one, as others do
			id, err := client.StartWith(testContext(t), request.Task, nil, request.Options)
			require.NoError(t, err)
			ids = append(ids, id)
		}
		for _, id := range ids {
			require.Equal(t, StateEnded, wait(t, client, id).State)
		}
		require.Equal(t, 1, m.peak("a"))
		require.Equal(t, 1, m.peak("b"))
		ran := slices.Compact(m.order)
		for i, key := range []string{"a", "b"} {
			var want, got []string
			for j := i; j < 60; j += 2 {
				want = append(want, ids[j])
			}
			for _, id := range ran {
				if slices.Contains(want, id) && !slices.Contains(got, id) {
					got = append(got, id)
				}
			}
			require.Equal(t, want, got, key)
		}
		e.requireNothingHeld(t)
	})
}

// The head of a key is stopped, removed, or deleted by hand: the next one comes. In line by hand it takes its place when it is claimed.
func TestOrderGoesOn(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		ordered := func(ids ...string) {
			for _, id := range ids {
				_, err := client.StartWith(ctx, "test/block", nil, StartOptions{ID: id, Key: "k", Ordered: true})
				require.NoError(t, err)
			}
		}
		ordered("stopped", "removed", "deleted", "behind", "last")
		e.do(t, "HSET", e.key("task:by hand"), "task", "test/block", "options", `{"key":"k","ordered":true}`)
		e.do(t, "LPUSH", e.key("wait"), "by hand")
		require.NoError(t, client.Stop(ctx, "stopped"))
		require.NoError(t, client.Remove(ctx, "removed"))
		e.do(t, "DEL", e.key("task:deleted"))
		e.do(t, "ZADD", e.key("timers"), 1, "order:k") // the safety net looks every few seconds
		e.do(t, "DEL", e.key("scheduled"))
		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		e.do(t, "PUBLISH", e.key("control:"), "due 1")
		for _, want := range []string{"behind", "last", "by hand"} {
			require.Equal(t, want, receive(t, want, b.running).ID())
			require.Empty(t, b.running, "one at a time")
			require.NoError(t, client.Stop(ctx, want))
		}
		e.requireNothingHeld(t)
	})
}

// High goes before normal before low, mostly; of a line that is never empty each gets its share.
func TestPriorities(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		priorities := []Priority{PriorityLow, PriorityNormal, PriorityHigh}
		m := newMeter()
		startAll(t, client, requests(90, func(int) string { return "" }, func(i int, o *StartOptions) { o.Priority = priorities[i%3] }))
		page, err := client.List(testContext(t), ListOptions{State: StateWait, Limit: 1000})
		require.NoError(t, err)
		require.Len(t, page.Tasks, 90)
		require.Equal(t, PriorityHigh, page.Tasks[0].Priority)
		require.Equal(t, PriorityLow, page.Tasks[89].Priority)
		counts, err := client.Counts(testContext(t))
		require.NoError(t, err)
		require.GreaterOrEqual(t, counts.Wait, int64(90))
		e.runner(t, limited(m, Limits{}), func(o *RunnerOptions) { o.Queues = map[string]int{"default": 1} })
		eventually(t, "all have run", func() bool { c, err := client.Counts(testContext(t)); return err == nil && c.Ended == 90 })
		first := map[Priority]int{}
		for _, id := range m.order[:30] {
			var n int
			_, err := fmt.Sscanf(id, "id%d", &n)
			require.NoError(t, err)
			first[priorities[n%3]]++
		}
		require.InDelta(t, 18, first[PriorityHigh], 2, "6 : 3 : 1, but for a turn at which there was nothing to take")
		require.InDelta(t, 9, first[PriorityNormal], 2)
		require.InDelta(t, 3, first[PriorityLow], 1)
	})
}

// Idle runners wait at one line: a task in another one wakes one of them, and many tasks wake as many as they need.
func TestPrioritiesWakeIdleRunners(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		idle := make(chan string, 100)
		for range 3 {
			e.runner(t, blockRegistry(b), func(o *RunnerOptions) {
				longLease(o)
				o.Queues = map[string]int{"default": 1}
				o.Locals = []Local{}
				o.hooks.idle = func(queue string) { idle <- queue }
			})
		}
		for range 3 {
			receive(t, "idle", idle)
		}
		client := e.client(t)
		ids := startAll(t, client, []StartRequest{
			{Task: "test/block", Options: StartOptions{Priority: PriorityLow}}, {Task: "test/block", Options: StartOptions{Priority: PriorityHigh}},
			{Task: "test/block", Options: StartOptions{Priority: PriorityHigh}},
		})
		var got []string
		for range 3 {
			got = append(got, receive(t, "runs", b.running).ID())
		}
		require.ElementsMatch(t, ids, got)
	})
}

// A paused queue starts nothing, loses nothing and keeps what runs; resumed, it goes on at once.
func TestPause(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		client := e.client(t)
		renewed := make(chan string, 1000)
		e.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			o.RenewInterval = 50 * time.Millisecond
			o.hooks.renewed = func(queue string) { renewed <- queue }
		})
		runs := start(t, client, "test/block", nil)
		receive(t, "runs", b.running)
		require.NoError(t, client.Pause(testContext(t)))
		require.NoError(t, client.Pause(testContext(t)), "again")
		counts, err := client.Counts(testContext(t))
		require.NoError(t, err)
		require.True(t, counts.Paused)
		id := start(t, client, "test/block", nil)
		high, err := client.StartWith(testContext(t), "test/block", nil, StartOptions{Priority: PriorityHigh})
		require.NoError(t, err)
		soon, err := client.StartWith(testContext(t), "test/block", nil, StartOptions{In: time.Millisecond})
		require.NoError(t, err)
		eventually(t, "what is due comes in line", func() bool { r, err := client.Get(testContext(t), soon); return err == nil && r.State == StateWait })
		for range 3 { // and the runner looks again meanwhile
			for len(renewed) > 0 {
				<-renewed
			}
			receive(t, "renewed", renewed)
		}
		require.Empty(t, b.running)
		require.Empty(t, b.causes, "what runs goes on")
		require.NoError(t, client.Resume(testContext(t)))
		var got []string
		for range 3 {
			got = append(got, receive(t, "runs", b.running).ID())
		}
		require.ElementsMatch(t, []string{id, high, soon}, got)
		require.NoError(t, client.Stop(testContext(t), runs))

		require.NoError(t, client.Pause(testContext(t)))
		id = start(t, client, "test/block", nil)
		e.do(t, "DEL", e.key("paused")) // by hand, without a word
		require.Equal(t, id, receive(t, "a renewal tells", b.running).ID())
	})
}
