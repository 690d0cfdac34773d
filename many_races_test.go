package redtask

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// cutPipeline loses the answers of the pipelines of scripts that its numbers say: they were applied.
type cutPipeline struct {
	lossy
	cut func(n int64) bool
	n   atomic.Int64
}

func (c *cutPipeline) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *cutPipeline) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if err == nil && cmds[0].Name() == "evalsha" && c.cut(c.n.Add(1)) {
			for _, cmd := range cmds {
				cmd.SetErr(errLostReply)
			}
			return errLostReply
		}
		return err
	}
}

// Answers that are lost: the call says how many are known to be done, and calls again until all are. None is restarted twice.
func TestManyWithLostAnswers(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ids := e.failed(t, 300)
		rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
		t.Cleanup(func() { _ = rdb.Close() })
		rdb.AddHook(&cutPipeline{cut: func(n int64) bool { return n%2 == 0 }})
		client, err := NewClient(rdb, ClientOptions{Prefix: e.prefix})
		require.NoError(t, err)
		done, lost := 0, 0
		for range 20 {
			m, err := client.RestartMany(testContext(t), Filter{State: StateError})
			done += m.Done
			if err == nil {
				break
			}
			require.ErrorIs(t, err, errLostReply)
			lost += m.Matched - m.Done
		}
		require.Positive(t, lost)
		require.Equal(t, 300, done+lost)
		require.ElementsMatch(t, ids, e.line(t), "each once")
	})
}

// counted are tasks that count their runs and fail.
type counted struct {
	mu   sync.Mutex
	runs map[string]int
}

func (c *counted) run(ctx context.Context, _ any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs[FromContext(ctx).ID()]++
	return Failf("run %d of it", c.runs[FromContext(ctx).ID()])
}

// A runner runs what is restarted at once, and it fails anew; others restart some as well. Each task runs once more for the call, and once
// for each restart of the others at most.
func TestRestartManyWhileTasksRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const n = 500
		c := &counted{runs: map[string]int{}}
		registry := NewRegistry()
		registry.Register("test/fails", Func(c.run))
		client := e.runner(t, registry, nil).Client()
		ids, err := client.StartMany(testContext(t), slices.Repeat([]StartRequest{{Task: "test/fails"}}, n))
		require.NoError(t, err)
		idle := func(what string) {
			eventually(t, what, func() bool {
				counts, err := client.Counts(testContext(t))
				return err == nil && counts.Error == n
			})
		}
		idle("all failed once")
		var others sync.WaitGroup
		for _, id := range ids[:n/5] {
			others.Go(func() {
				if err := client.Restart(testContext(t), id); err != nil {
					t.Error(err)
				}
			})
		}
		done, err := client.RestartMany(testContext(t), Filter{State: StateError, Task: "test/*", Error: "of it"})
		require.NoError(t, err)
		others.Wait()
		idle("all failed again")
		require.Equal(t, done.Matched, done.Done+done.Moved)
		require.GreaterOrEqual(t, done.Done, n-n/5)
		for i, id := range ids {
			if i < n/5 {
				require.Contains(t, []int{2, 3}, c.runs[id], "%s of %+v", id, done)
				continue
			}
			require.Equal(t, 2, c.runs[id], "%s of %+v", id, done)
		}
	})
}

// between calls back before each pipeline of scripts: after the look at tasks, before the deed.
type between struct {
	lossy
	call func(step int)
	step int
}

func (b *between) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (b *between) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "evalsha" {
			b.call(b.step)
			b.step++
		}
		return next(ctx, cmds)
	}
}

// Between the look and the deed of each step others restart some of its tasks, which run and fail anew before the deed: they are as they
// were looked at, but for their epoch, and are left alone.
func TestRestartManyLeavesAloneWhatRanMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const n, steps, moved = 192, 3, 10
		c := &counted{runs: map[string]int{}}
		registry := NewRegistry()
		registry.Register("test/fails", Func(c.run))
		client := e.runner(t, registry, nil).Client()
		ids := e.failed(t, n)
		for _, id := range ids {
			e.do(t, "HSET", e.key("task:"+id), "task", "test/fails")
		}
		rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
		t.Cleanup(func() { _ = rdb.Close() })
		rdb.AddHook(&between{call: func(step int) {
			for _, id := range ids[step*n/steps:][:moved] {
				require.NoError(t, client.Restart(testContext(t), id))
				require.Equal(t, "run 1 of it", wait(t, client, id).Error)
			}
		}})
		walker, err := NewClient(rdb, ClientOptions{Prefix: e.prefix})
		require.NoError(t, err)
		done, err := walker.RestartMany(testContext(t), Filter{State: StateError, NewerThan: time.Hour})
		require.NoError(t, err)
		require.Equal(t, ManyResult{Looked: n, Matched: n, Done: n - steps*moved, Moved: steps * moved}, done)
		for _, id := range ids {
			require.Equal(t, "run 1 of it", wait(t, client, id).Error, "once, by this call or by the others")
		}
	})
}

// Runners claim from the line, producers add to it, while it is stopped from the other end: each task either ran or was stopped.
func TestStopManyWhileTasksRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const n = 1000
		var ran sync.Map
		registry := NewRegistry()
		registry.Register("test/runs", Func(func(ctx context.Context, _ any) error {
			if _, again := ran.LoadOrStore(FromContext(ctx).ID(), true); again {
				return errors.New("it ran before")
			}
			return nil
		}))
		client := e.client(t)
		ids, err := client.StartMany(testContext(t), slices.Repeat([]StartRequest{{Task: "test/runs"}}, n))
		require.NoError(t, err)
		e.runner(t, registry, nil)
		done, err := client.StopMany(testContext(t), Filter{State: StateWait, Progress: func(m ManyResult) {
			if m.Looked < n {
				_, err := client.Start(testContext(t), "test/runs", nil)
				require.NoError(t, err)
			}
		}})
		require.NoError(t, err)
		require.Equal(t, done.Matched, done.Done+done.Moved)
		eventually(t, "all are final", func() bool {
			counts, err := client.Counts(testContext(t))
			return err == nil && counts.Wait == 0 && counts.Running <= int64(len(defaultLocals())) && counts.Stopped == int64(done.Done)
		})
		for _, id := range ids {
			_, did := ran.Load(id)
			require.Equal(t, map[bool]State{true: StateEnded, false: StateStopped}[did], wait(t, client, id).State)
		}
	})
}

// Those that run are told; the runner's own tasks are left alone.
func TestManyThatRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		client := e.runner(t, registry, nil).Client()
		ids, err := client.StartMany(testContext(t), slices.Repeat([]StartRequest{{Task: "test/block"}}, 10))
		require.NoError(t, err)
		runs := func() {
			for range ids {
				receive(t, "run", b.running)
			}
		}
		runs()
		none, err := client.StopMany(testContext(t), Filter{State: StateRunning, OlderThan: time.Hour})
		require.NoError(t, err)
		require.Zero(t, none.Matched)
		done, err := client.RestartMany(testContext(t), Filter{State: StateRunning})
		require.NoError(t, err)
		require.Equal(t, 10, done.Done)
		runs()
		done, err = client.StopMany(testContext(t), Filter{State: StateRunning})
		require.NoError(t, err)
		require.Equal(t, ManyResult{Looked: done.Looked, Matched: 10, Done: 10}, done)
		for _, id := range ids {
			require.Equal(t, StateStopped, wait(t, client, id).State)
		}
		page, err := client.List(testContext(t), ListOptions{State: StateRunning})
		require.NoError(t, err)
		require.NotEmpty(t, page.Tasks, "monitor and cleanup")
		for _, task := range page.Tasks {
			require.True(t, task.Local)
		}
	})
}

// A task that was told to restart comes to another runner, whose tasks are still to be looked at: it is not told once more.
func TestRestartManyTellsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		run := func(id, runner string, epoch int) {
			e.do(t, "HSET", e.key("task:"+id), "task", "test/a", "state", "RUNNING", "runner", runner, "epoch", epoch)
			e.do(t, "SADD", e.key("running:"+runner), strconv.Itoa(epoch)+":"+id)
		}
		e.do(t, "ZADD", e.key("runners"), 1e15, "first", 2e15, "second")
		run("x", "first", 1)
		run("y", "second", 2)
		done, err := e.client(t).RestartMany(testContext(t), Filter{State: StateRunning, Progress: func(m ManyResult) {
			if m.Looked == 1 {
				e.do(t, "SREM", e.key("running:first"), "1:x")
				run("x", "second", 3)
			}
		}})
		require.NoError(t, err)
		require.Equal(t, ManyResult{Looked: 3, Matched: 2, Done: 2}, done)
		require.Equal(t, map[string]string{"y": "restart"}, e.rdb.HGetAll(t.Context(), e.key("control:second")).Val())
	})
}

// Tasks that wait for those before them of their key, and in lines beside, wait too.
func TestStopManyOfOrderedTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		var requests []StartRequest
		for i := range 300 {
			options := StartOptions{Key: "k" + strconv.Itoa(i%3), Ordered: true}
			if i%7 == 0 {
				options = StartOptions{Priority: PriorityHigh}
			}
			requests = append(requests, StartRequest{Task: "test/a", Options: options})
		}
		ids, err := client.StartMany(testContext(t), requests)
		require.NoError(t, err)
		done, err := client.StopMany(testContext(t), Filter{State: StateWait})
		require.NoError(t, err)
		require.Equal(t, 300, done.Done)
		for _, id := range ids {
			require.Equal(t, StateStopped, wait(t, client, id).State)
		}
	})
}

func TestRetryNow(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var runs atomic.Int64
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", Func(func(context.Context, any) error {
			if runs.Add(1) < 3 {
				return errors.New("not yet")
			}
			return nil
		}), TaskOptions{Retry: &Retry{Attempts: 2, Backoff: Constant(time.Hour)}})
		b := newBlocker()
		registry.Register("test/block", b.factory)
		client := e.runner(t, registry, nil).Client()
		ctx := testContext(t)
		id := start(t, client, "test/flaky", nil)
		eventually(t, "it waits for its retry", func() bool {
			record, err := client.Get(ctx, id)
			return err == nil && record.State == StateScheduled
		})
		done, err := client.RetryMany(ctx, Filter{State: StateScheduled, Error: "not yet"})
		require.NoError(t, err)
		require.Equal(t, ManyResult{Looked: 1, Matched: 1, Done: 1}, done)
		require.Equal(t, StateException, wait(t, client, id).State, "that was the second of two attempts")
		require.NoError(t, client.Retry(ctx, id))
		require.Equal(t, StateEnded, wait(t, client, id).State)
		require.ErrorIs(t, client.Retry(ctx, id), ErrFinal)
		require.ErrorIs(t, client.Retry(ctx, "nobody"), ErrNotFound)
		require.ErrorIs(t, client.Retry(ctx, ""), ErrInvalid)
		later, err := client.StartWith(ctx, "test/block", nil, StartOptions{In: time.Hour})
		require.NoError(t, err)
		require.NoError(t, client.Retry(ctx, later))
		receive(t, "it runs now", b.running)
		conflict, ok := errors.AsType[*ConflictError](client.Retry(ctx, later))
		require.True(t, ok)
		require.ErrorIs(t, conflict, ErrRunning)
		require.ErrorContains(t, conflict, "it has not failed")
	})
}

// Another task has the unique key by now: that one is refused, and told; the others are done.
func TestRetryManyRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		ids := e.failed(t, 3)
		e.do(t, "HSET", e.key("task:"+ids[1]), "options", `{"once":{"key":"u"}}`)
		_, err := client.StartWith(testContext(t), "test/a", nil, StartOptions{ID: "has it", Once: Unique("u", 0)})
		require.NoError(t, err)
		done, err := client.RetryMany(testContext(t), Filter{State: StateError})
		require.NoError(t, err)
		var conflict *ConflictError
		require.ErrorAs(t, done.Refusal, &conflict)
		require.Equal(t, ids[1], conflict.ID)
		done.Refusal = nil
		require.Equal(t, ManyResult{Looked: 3, Matched: 3, Done: 2, Refused: 1}, done)
	})
}

func TestManyInACluster(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: redistest.Cluster(t)})
	t.Cleanup(func() { _ = rdb.Close() })
	client, err := NewClient(rdb, ClientOptions{})
	require.NoError(t, err)
	for _, queue := range clusterQueues {
		client := client.ForQueue(queue)
		_, err := client.StartMany(testContext(t), slices.Repeat([]StartRequest{{Task: "test/a"}}, 200))
		require.NoError(t, err)
		for _, step := range []struct {
			many  func(context.Context, Filter) (ManyResult, error)
			state State
		}{{client.StopMany, StateWait}, {client.RestartMany, StateStopped}, {client.StopMany, StateWait}, {client.RemoveMany, StateStopped}} {
			done, err := step.many(testContext(t), Filter{State: step.state, NewerThan: time.Hour})
			require.NoError(t, err)
			require.Equal(t, 200, done.Done, fmt.Sprint(queue, step.state))
		}
	}
}
