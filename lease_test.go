package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// A runner whose lease is gone from Redis cancels its tasks and registers anew.
func TestLostLease(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		registered := make(chan string, 10)
		runner := e.runner(t, registry, func(o *RunnerOptions) {
			fastLease(o)
			o.hooks.registered = func(queue string) { registered <- queue }
		})
		receive(t, "registered", registered)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "run", b.running)

		e.rdb.ZRem(t.Context(), e.key("runners"), runner.ID())
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrLeaseLost)
		receive(t, "registered again", registered)
		// Its claim stayed in Redis, since nobody took it over: it goes back in line and runs again.
		again := receive(t, "second run", b.running)
		require.Equal(t, id, again.ID())
		require.Equal(t, 1, again.Attempt())
	})
}

// An emptied Redis costs the tasks, not the runner: it registers again and takes new ones.
func TestFlush(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		if e.mini == nil {
			server := redistest.Start(t)
			e = newEnv(t, server.Addr, nil)
		}
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		e.runner(t, registry, fastLease)
		client := e.client(t)
		start(t, client, "test/block", nil)
		receive(t, "run", b.running)
		require.NoError(t, e.rdb.FlushAll(t.Context()).Err())
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrLeaseLost)
		start(t, client, "test/block", nil)
		receive(t, "run after the flush", b.running)
	})
}

// What Redis says is ours and does not run here goes back; what runs here and is not ours is cancelled.
func TestReconcile(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		runner := e.runner(t, registry, fastLease)
		client := e.client(t)
		taken := start(t, client, "test/block", nil)
		first := receive(t, "run", b.running)

		// A claim whose answer was lost: in Redis it is ours, here nobody knows of it.
		ghost := "ghost"
		e.rdb.HSet(t.Context(), e.key("task:"+ghost), "task", "test/block", "data", "null", "state", "RUNNING", "epoch", "1000", "attempt", "1",
			"runner", runner.ID())
		e.rdb.SAdd(t.Context(), e.key("running:"+runner.ID()), "1000:"+ghost)
		second := receive(t, "run of the ghost", b.running)
		require.Equal(t, ghost, second.ID())
		require.Equal(t, 1, second.Attempt())

		// The claim of the first is gone, and so that the counts differ nothing came instead.
		e.rdb.SRem(t.Context(), e.key("running:"+runner.ID()), first.member)
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrLeaseLost)
		eventually(t, "its end is refused", func() bool { return e.log.has("was not written") })
		require.Equal(t, "RUNNING", e.rdb.HGet(t.Context(), e.key("task:"+taken), "state").Val(), "a lost epoch writes nothing")
	})
}

func TestCheckpointOfALostEpoch(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		result := make(chan error, 1)
		registry := NewRegistry()
		registry.Register("test/point", Func(func(ctx context.Context, _ any) error {
			run := FromContext(ctx)
			if err := run.Checkpoint(ctx, 1); err != nil {
				return err
			}
			e.rdb.SRem(ctx, e.key("running:"+run.engine.runnerID), run.member)
			result <- run.Checkpoint(ctx, 2)
			<-ctx.Done()
			result <- context.Cause(ctx)
			return nil
		}))
		e.runner(t, registry, nil)
		id := start(t, e.client(t), "test/point", nil)
		require.ErrorIs(t, receive(t, "second checkpoint", result), ErrLeaseLost)
		require.ErrorIs(t, receive(t, "the run is cancelled", result), ErrLeaseLost)
		require.Equal(t, "1", e.rdb.HGet(t.Context(), e.key("task:"+id), "checkpoint").Val())
	})
}

// With Redis silent (not even a closed connection) the runner cancels its tasks before the lease ends, and goes on when it is back.
func TestFenceBeforeLeaseEnds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	b := newBlocker()
	registry := NewRegistry()
	registry.Register("test/block", b.factory)
	fenced := make(chan string, 10)
	const lease = time.Minute // of which the margin leaves two seconds: no load closes the time between fence and end
	runner := e.runner(t, registry, func(o *RunnerOptions) {
		o.Lease, o.RenewInterval, o.SafetyMargin = lease, 300*time.Millisecond, lease-2*time.Second
		o.hooks.fenced = func(queue string) { fenced <- queue }
	})
	client := e.client(t)
	id := start(t, client, "test/block", nil)
	receive(t, "run", b.running)
	server.Freeze(t)
	receive(t, "fence", fenced)
	require.ErrorIs(t, receive(t, "cause", b.causes), ErrLeaseLost)
	since := time.Since(runner.engines["default"].lease.lastSent())
	require.GreaterOrEqual(t, since, 2*time.Second, "not before lease - margin")
	require.Less(t, since, lease, "before others may take over")
	server.Thaw(t)
	again := receive(t, "second run", b.running)
	require.Equal(t, id, again.ID())
	require.Equal(t, 1, again.Attempt())
}

// A finish that Redis could not take is kept and written when it is back.
func TestResultSurvivesRedisRestart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	e := newEnv(t, server.Addr, nil)
	running, end := make(chan struct{}), make(chan struct{})
	registry := NewRegistry()
	registry.Register("test/work", func() Task {
		return (&script{start: func(ctx context.Context) error {
			close(running)
			<-end
			return FromContext(ctx).SetOutput("precious")
		}}).task()
	})
	e.runner(t, registry, func(o *RunnerOptions) { o.Lease = time.Minute })
	client := e.client(t)
	id := start(t, client, "test/work", nil)
	receive(t, "run", running)
	server.Kill()
	close(end)
	eventually(t, "the runner notices", func() bool { return e.log.has("redis does not take what tasks did") })
	server.Restart(t)
	eventually(t, "the result", func() bool {
		record, err := client.Get(context.Background(), id)
		return err == nil && record.State == StateEnded && string(record.Output) == `"precious"`
	})
	next := start(t, client, "test/missing", nil)
	require.Equal(t, StateException, wait(t, client, next).State, "and the runner goes on")
}

// A runner may start before its Redis.
func TestRedisDownAtStart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	e := newEnv(t, server.Addr, nil)
	registry := NewRegistry()
	registry.Register("test/out", FuncOut(func(context.Context, any) (int, error) { return 1, nil }))
	e.runner(t, registry, nil)
	_, err := e.client(t).Start(testContext(t), "test/out", nil)
	require.Error(t, err)
	server.Restart(t)
	var id string
	eventually(t, "a start", func() bool { id, err = e.client(t).Start(t.Context(), "test/out", nil); return err == nil })
	require.Equal(t, StateEnded, wait(t, e.client(t), id).State)
}

func TestOtherProtocolVersion(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.rdb.Set(t.Context(), e.prefix+":protocol", "99", 0)
		runner, err := NewRunner(e.rdb, NewRegistry(), RunnerOptions{Prefix: e.prefix, Logger: e.logger()})
		require.NoError(t, err)
		require.ErrorIs(t, runner.Run(testContext(t)), ErrProtocol)

		embedded, err := NewRunner(e.rdb, NewRegistry(), RunnerOptions{Prefix: e.prefix, Logger: e.logger()})
		require.NoError(t, err)
		require.NoError(t, embedded.Start(t.Context()))
		eventually(t, "the log says so", func() bool { return strings.Count(e.log.String(), "cannot go on") == 2 })
		require.ErrorIs(t, shutdown(t, embedded), ErrProtocol)
		_, err = e.client(t).Start(testContext(t), "test/x", nil)
		require.ErrorIs(t, err, ErrProtocol)
	})
}

// lossy cuts the answers of some commit calls: they were applied, and the caller gets an error of unknown outcome.
type lossy struct {
	every int64
	calls atomic.Int64
}

var errLostReply = errors.New("connection cut before the answer")

func (l *lossy) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *lossy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (l *lossy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && cmd.Name() == "evalsha" && l.calls.Add(1)%l.every == 0 {
			cmd.SetErr(errLostReply)
			return errLostReply
		}
		return err
	}
}

// Lost answers, to runner and client alike: each task runs, none twice at once, each event once.
func TestLostReplies(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const tasks = 200
		var running [tasks]atomic.Int32
		var ends atomic.Int64
		registry := NewRegistry()
		registry.Register("test/once", Func(func(ctx context.Context, n int) error {
			if running[n].Add(1) != 1 {
				return errors.New("runs twice at once")
			}
			defer running[n].Add(-1)
			if err := FromContext(ctx).Emit("working", n); err != nil {
				return err
			}
			ends.Add(1)
			return FromContext(ctx).Checkpoint(ctx, n)
		}))
		events := e.rdb.PSubscribe(t.Context(), e.key("events:*"))
		t.Cleanup(func() { _ = events.Close() })
		_, err := events.Receive(t.Context())
		require.NoError(t, err)
		e.rdb.AddHook(&lossy{every: 3})
		e.runner(t, registry, nil)
		client := e.client(t)
		ids := make([]string, tasks)
		for i := range ids {
			own := StartOptions{ID: "own-" + newID()}
			for ids[i] == "" { // a lost answer is tried again with the same ID: refused as taken, or taken by the first call
				ids[i], err = client.StartWith(testContext(t), "test/once", i, own)
				if errors.Is(err, ErrExists) || errors.Is(err, errLostReply) && exists(e, own.ID) {
					ids[i] = own.ID
				}
			}
		}
		for _, id := range ids {
			record := waitPlain(t, e, id)
			require.Equal(t, "ENDED", record["state"], record)
		}
		requireGapless(t, events, ids)
	})
}

// requireGapless reads raw events until each ID has ended: no event twice, none missing in its epoch.
func requireGapless(t *testing.T, events *redis.PubSub, ids []string) {
	t.Helper()
	left := map[string]bool{}
	for _, id := range ids {
		left[id] = true
	}
	last := map[string]position{}
	for len(left) > 0 {
		message, err := events.ReceiveMessage(testContext(t))
		require.NoError(t, err)
		var event Event
		require.NoError(t, json.Unmarshal([]byte(message.Payload), &event), message.Payload)
		before := last[event.ID]
		if event.Epoch == before.epoch {
			require.Equal(t, before.seq+1, event.Seq, message.Payload)
		} else {
			require.Greater(t, event.Epoch, before.epoch, message.Payload)
			require.EqualValues(t, 1, event.Seq, message.Payload)
		}
		last[event.ID] = position{epoch: event.Epoch, seq: event.Seq}
		if event.final() {
			require.True(t, left[event.ID] || !slices.Contains(ids, event.ID), "a second end: %s", message.Payload)
			delete(left, event.ID)
		}
	}
}

func exists(e *env, id string) bool {
	return e.rdb.Exists(context.Background(), e.key("task:"+id)).Val() == 1
}

func waitPlain(t *testing.T, e *env, id string) map[string]string {
	t.Helper()
	var hash map[string]string
	eventually(t, "final state of "+id, func() bool {
		hash = e.rdb.HGetAll(context.Background(), e.key("task:"+id)).Val()
		return State(hash["state"]).Final()
	})
	return hash
}

// Whoever took over this runner's tasks died before it was through, and nobody else is there: the runner does it itself.
func TestFinishATakeover(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
		runner := e.runner(t, registry, func(o *RunnerOptions) { fastLease(o); o.Locals = []Local{} })
		client := e.client(t)
		require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/end", nil)).State, "it works")
		_, err := e.rdb.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
			p.ZAdd(t.Context(), e.key("runners"), redis.Z{Score: 0, Member: runner.ID()})
			p.HDel(t.Context(), e.key("runner:"+runner.ID()), "batch")
			p.HSet(t.Context(), e.key("task:left"), "task", "test/end", "state", "RUNNING", "epoch", "1", "runner", runner.ID(), "attempt", "1")
			p.SAdd(t.Context(), e.key("running:"+runner.ID()), "1:left")
			return nil
		})
		require.NoError(t, err)
		record := wait(t, client, "left")
		require.Equal(t, StateEnded, record.State)
		require.Equal(t, 1, record.Recoveries)
		require.Equal(t, 1, record.Attempt)
	})
}

// A batch whose answers are lost until the lease is gone, and the task elsewhere: what its run said must not come once more, nor what it
// says after that, between the events of the next run.
func TestEventsOfALostRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var cut atomic.Bool
		asked, answer := make(chan struct{}), newGate(t)
		worked := func(cmd *redis.Cmd) bool {
			values, _ := cmd.Val().([]any)
			return len(values) == 2 && values[0] == int64(1)
		}
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			if cut.Load() && follows(cmd) {
				return errLostReply // it does not even arrive
			}
			err := next()
			if cut.Load() && cmd.Args()[2] == keysOfCommit {
				return loseAnswer(cmd)
			}
			if cmd.Args()[2] == keysOfRegister && worked(cmd) && cut.CompareAndSwap(true, false) {
				close(asked)
				answer.wait()
			}
			return err
		})
		b := newBlocker()
		registered := make(chan string, 10)
		first := own.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			o.RenewInterval = 300 * time.Millisecond // the lease is the long one: an answer is held back
			o.Locals = []Local{}
			o.hooks.registered = func(queue string) { registered <- queue }
		})
		receive(t, "registered", registered)
		committer := first.engines["default"].committer
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		lost := receive(t, "run", b.running)
		events := e.rdb.Subscribe(t.Context(), e.key("events:"+id))
		t.Cleanup(func() { _ = events.Close() })
		_, err := events.Receive(t.Context())
		require.NoError(t, err)

		require.NoError(t, lost.Checkpoint(testContext(t), 1), "what it said so far is answered")
		cut.Store(true)
		require.NoError(t, lost.Emit("once", nil))
		eventually(t, "it is out, and its answer lost", func() bool {
			message, err := events.ReceiveMessage(testContext(t))
			require.NoError(t, err)
			return strings.Contains(message.Payload, `"once"`)
		})
		require.NoError(t, lost.Emit("late", nil), "in the second batch that is under way")
		eventually(t, "it is sent", func() bool {
			committer.mu.Lock()
			defer committer.mu.Unlock()
			return len(committer.flights) == maxFlights
		})
		require.NoError(t, lost.Emit("later", nil), "behind what is under way")
		e.rdb.HDel(t.Context(), e.key("runner:"+first.ID()), "batch") // as a monitor does that takes over
		e.rdb.ZAdd(t.Context(), e.key("runners"), redis.Z{Score: 0, Member: first.ID()})
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrLeaseLost)
		receive(t, "registered again in redis, when it had finished the takeover", asked)
		passed := make(chan struct{})
		committer.do(func(context.Context) { // what was under way is answered; between this call and the next one a batch could go
			committer.do(func(context.Context) { close(passed) })
		})
		receive(t, "two turns while the answer is on the way", passed)
		answer.open()
		receive(t, "registered again", registered)

		next := receive(t, "next run", b.running)
		require.Equal(t, id, next.ID())
		require.NoError(t, client.Stop(t.Context(), id))
		last := lost.Epoch()
		for {
			message, err := events.ReceiveMessage(testContext(t))
			require.NoError(t, err)
			require.NotContains(t, message.Payload, `"once"`)
			require.NotContains(t, message.Payload, `"late"`)
			require.NotContains(t, message.Payload, `"later"`)
			var event Event
			require.NoError(t, json.Unmarshal([]byte(message.Payload), &event))
			require.Greater(t, event.Epoch, lost.Epoch(), message.Payload)
			require.GreaterOrEqual(t, event.Epoch, last)
			last = event.Epoch
			if event.final() {
				return
			}
		}
	})
}
