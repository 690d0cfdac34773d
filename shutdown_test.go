package redtask

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func shutdown(t testing.TB, runner *Runner) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return runner.Shutdown(ctx)
}

// A deploy: tasks go back to the head of the line, no attempt counted, and run elsewhere.
func TestShutdownGivesBack(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		first := e.runner(t, registry, nil)
		client := e.client(t)
		ids := map[string]bool{}
		for range 5 {
			ids[start(t, client, "test/block", nil)] = true
		}
		for range 5 {
			receive(t, "run", b.running)
		}
		require.NoError(t, shutdown(t, first))
		for range 5 {
			require.ErrorIs(t, receive(t, "cause", b.causes), ErrShutdown)
		}
		require.EqualValues(t, 5, e.rdb.LLen(t.Context(), e.key("wait")).Val())
		require.Zero(t, e.rdb.Exists(t.Context(), e.key("running:"+first.ID()), e.key("inbox:"+first.ID()), e.key("control:"+first.ID())).Val())
		if e.mini == nil { // miniredis cannot end a blocked call for certain, so there the lease ends by itself
			require.Zero(t, e.rdb.Exists(t.Context(), e.key("runners"), e.key("runner:"+first.ID())).Val(), "nothing of the runner is left")
		}

		e.runner(t, registry, nil)
		for range 5 {
			run := receive(t, "run", b.running)
			require.True(t, ids[run.ID()])
			require.Equal(t, 1, run.Attempt())
		}
	})
}

func TestShutdownGrace(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running, end := make(chan struct{}, 2), make(chan struct{})
		told := make(chan struct{})
		registry := NewRegistry()
		registry.Register("test/short", func() Task {
			return (&script{start: func(ctx context.Context) error {
				running <- struct{}{}
				select {
				case <-end:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}}).task()
		})
		registry.Register("test/stopper", func() Task {
			quit := make(chan struct{})
			return (&script{
				start: func(context.Context) error { running <- struct{}{}; <-quit; return nil },
				stop:  func(context.Context) error { close(told); close(quit); return nil },
			}).task()
		})
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Grace = time.Minute })
		client := e.client(t)
		short := start(t, client, "test/short", nil)
		long := start(t, client, "test/stopper", nil)
		receive(t, "run", running)
		receive(t, "run", running)
		result := make(chan error, 1)
		go func() { result <- shutdown(t, runner) }()
		receive(t, "the task with Stop is told at once", told)
		close(end) // the other one ends by itself within the grace period
		require.NoError(t, receive(t, "shutdown", result))

		record, err := client.Get(testContext(t), short)
		require.NoError(t, err)
		require.Equal(t, StateEnded, record.State)
		record, err = client.Get(testContext(t), long)
		require.NoError(t, err)
		require.Equal(t, StateWait, record.State)
		require.Zero(t, record.Attempt)
	})
}

func TestShutdownDoneAllTheSame(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		b.result.Store(errorBox{ErrDone})
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		runner := e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "run", b.running)
		require.NoError(t, shutdown(t, runner))
		require.Equal(t, StateEnded, wait(t, client, id).State)
	})
}

// A stop that is pending when the task is given back wins: STOPPED, not back in line.
func TestShutdownWithPendingStop(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		runner := e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "run", b.running)
		e.rdb.HSet(t.Context(), e.key("control:"+runner.ID()), id, "stop")
		require.NoError(t, shutdown(t, runner))
		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.Equal(t, StateStopped, record.State)
		require.Zero(t, e.rdb.LLen(t.Context(), e.key("wait")).Val())
	})
}

func TestShutdownNamesStuckTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running, end := make(chan struct{}), make(chan struct{})
		registry := NewRegistry()
		registry.Register("test/stubborn", func() Task {
			return (&script{start: func(context.Context) error { close(running); <-end; return nil }}).task()
		})
		runner, err := NewRunner(e.rdb, registry, RunnerOptions{
			Prefix: e.prefix, Logger: e.logger(), Grace: NoGrace, StuckAfter: 30 * time.Millisecond,
		})
		require.NoError(t, err)
		require.NoError(t, runner.Start(t.Context()))
		client := e.client(t)
		events, err := client.WatchQueue(testContext(t))
		require.NoError(t, err)
		id := start(t, client, "test/stubborn", nil)
		receive(t, "run", running)

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err = runner.Shutdown(ctx)
		require.ErrorContains(t, err, "test/stubborn (ID "+id+")")
		require.Equal(t, err, runner.Shutdown(context.Background()), "a second call has the first one's result")
		eventually(t, "the report", func() bool { return e.log.has("ignores that it was told to stop") })
		require.True(t, e.log.has("shutdown_test.go"), "the log has the stack of the task")
		require.EqualValues(t, 1, e.rdb.SCard(t.Context(), e.key("running:"+runner.ID())).Val(), "it stays leased")
		for event := range events {
			if event.Name == EventStuck {
				require.Equal(t, id, event.ID)
				break
			}
		}
		close(end)
		eventually(t, "the goroutine ends", func() bool {
			runner.engines["default"].mu.Lock()
			defer runner.engines["default"].mu.Unlock()
			run := runner.engines["default"].runs[id]
			run.mu.Lock()
			defer run.mu.Unlock()
			return run.over
		})
	})
}

func TestRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		runner, err := NewRunner(e.rdb, registry, RunnerOptions{Prefix: e.prefix, Logger: e.logger(), Grace: NoGrace})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := make(chan error, 1)
		go func() { result <- runner.Run(ctx) }()
		id := start(t, e.client(t), "test/block", nil)
		receive(t, "run", b.running)
		cancel()
		require.NoError(t, receive(t, "end of Run", result))
		record, err := e.client(t).Get(testContext(t), id)
		require.NoError(t, err)
		require.Equal(t, StateWait, record.State)
		require.ErrorContains(t, runner.Start(t.Context()), "make a new one")
	})
}

// Starts and shutdowns at any moment, with tasks under way: nothing is lost, and no goroutine is left (TestMain looks).
func TestStartStopStress(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const tasks = 300
		registry := NewRegistry()
		registry.Register("test/short", Func(func(ctx context.Context, ms int) error {
			select {
			case <-time.After(time.Duration(ms) * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
		client := e.client(t)
		requests := make([]StartRequest, tasks)
		for i := range requests {
			requests[i] = StartRequest{Task: "test/short", Data: i % 7}
		}
		_, err := client.StartMany(testContext(t), requests)
		require.NoError(t, err)
		for i := 0; ; i++ {
			runner, err := NewRunner(e.rdb, registry, RunnerOptions{
				Prefix: e.prefix, Logger: e.logger(), Grace: NoGrace, Queues: map[string]int{"default": 1 + i%20},
			})
			require.NoError(t, err)
			require.NoError(t, runner.Start(t.Context()))
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%9)*3*time.Millisecond)
			<-ctx.Done()
			cancel()
			require.NoError(t, shutdown(t, runner))
			counts, err := client.Counts(testContext(t))
			require.NoError(t, err)
			require.EqualValues(t, tasks, counts.Wait+counts.Ended, "round %d: each task is in line or ended", i)
			require.Zero(t, counts.Running)
			if counts.Ended == tasks {
				return
			}
			require.Less(t, i, 2000)
		}
	})
}
