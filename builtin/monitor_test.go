package builtin_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/builtin"
	"github.com/redtask/redtask/internal/store"
)

func fastMonitor(o builtin.MonitorOptions) redtask.Local {
	o.Interval, o.Logger = 20*time.Millisecond, quiet
	return builtin.Monitor(o)
}

// die registers a runner that claims up to n tasks and is never heard of again.
func (e *env) die(t *testing.T, runner string, n int) []store.Claim {
	t.Helper()
	e.batch++
	ok, _, err := e.queue.Register(t.Context(), &store.RunnerInfo{
		ID: runner, Lease: 300 * time.Millisecond, Silence: 200 * time.Millisecond, Batch: e.batch - 1,
	})
	require.NoError(t, err)
	require.True(t, ok)
	result, err := e.queue.Commit(t.Context(), runner, &store.Batch{Number: e.batch, Claim: n})
	require.NoError(t, err)
	return result.Claims
}

func count(ran *atomic.Int64) redtask.Factory {
	return redtask.Func(func(context.Context, any) error { ran.Add(1); return nil })
}

func TestTasksOfADeadRunnerRunAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const tasks = 150
		for i := range tasks {
			e.start(t, "test/count", redtask.StartOptions{ID: strconv.Itoa(i)})
		}
		for claimed := 0; claimed < tasks; {
			claimed += len(e.die(t, "dead"+strconv.Itoa(claimed), store.MaxBatch))
		}
		var ran atomic.Int64
		registry := redtask.NewRegistry()
		registry.Register("test/count", count(&ran))
		e.runner(t, registry, fastMonitor(builtin.MonitorOptions{}))
		e.runner(t, registry, fastMonitor(builtin.MonitorOptions{}))
		for i := range tasks {
			record := e.wait(t, strconv.Itoa(i))
			require.Equal(t, redtask.StateEnded, record.State)
			require.Equal(t, 1, record.Attempt, "a recovery is not an attempt")
			require.Equal(t, 1, record.Recoveries)
		}
		require.EqualValues(t, tasks, ran.Load(), "with two monitors each task still comes back once")
		eventually(t, "nothing is left of the dead", func() bool {
			return e.rdb.ZCard(t.Context(), e.key("runners")).Val() == 2 && e.rdb.Exists(t.Context(), e.key("runner:dead0")).Val() == 0
		})
		counts, err := e.client.Counts(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, tasks, counts.Recovered)
	})
}

func TestIDsInADeadRunnersInboxComeBack(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.die(t, "dead", 0)
		id := e.start(t, "test/count", redtask.StartOptions{})
		require.NoError(t, e.rdb.LMove(t.Context(), e.key("wait"), e.key("inbox:dead"), "RIGHT", "LEFT").Err())
		var ran atomic.Int64
		registry := redtask.NewRegistry()
		registry.Register("test/count", count(&ran))
		e.runner(t, registry, fastMonitor(builtin.MonitorOptions{}))
		require.Equal(t, redtask.StateEnded, e.wait(t, id).State)
	})
}

func TestPoisonIsGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running, end := make(chan struct{}), make(chan struct{})
		registry := redtask.NewRegistry()
		registry.Register("test/block", redtask.Func(func(context.Context, any) error { close(running); <-end; return nil }))
		e.runner(t, registry, fastMonitor(builtin.MonitorOptions{MaxRecoveries: 2, FirstDelay: 10 * time.Millisecond}))
		block := e.start(t, "test/block", redtask.StartOptions{})
		<-running // its only slot: the poison is left to those who die of it
		poison := e.start(t, "test/poison", redtask.StartOptions{})
		events, err := e.client.Watch(deadline(t), poison)
		require.NoError(t, err)
		for death := range 3 {
			dead := "dead" + strconv.Itoa(death)
			eventually(t, "it is claimed", func() bool { return len(e.die(t, dead, 1)) == 1 })
		}
		var kinds []string
		for event := range events {
			kinds = append(kinds, event.Name)
		}
		require.Equal(t, []string{redtask.EventWait, redtask.EventScheduled, redtask.EventException}, kinds)
		record := e.wait(t, poison)
		require.Equal(t, redtask.StateException, record.State)
		require.Contains(t, record.Error, "its runner died 3 times")
		close(end)
		require.Equal(t, redtask.StateEnded, e.wait(t, block).State)
	})
}

func TestStopOfADeadRunnersTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		id := e.start(t, "test/count", redtask.StartOptions{})
		require.Len(t, e.die(t, "dead", 1), 1)
		require.NoError(t, e.client.Stop(t.Context(), id))
		var ran atomic.Int64
		registry := redtask.NewRegistry()
		registry.Register("test/count", count(&ran))
		e.runner(t, registry, fastMonitor(builtin.MonitorOptions{}))
		require.Equal(t, redtask.StateStopped, e.wait(t, id).State)
		require.Zero(t, ran.Load())
	})
}

func TestLocalTasksOfADeadRunnerGo(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.die(t, "dead", 0)
		epoch, err := e.queue.Adopt(t.Context(), "dead", "local", "redtask/monitor", "null")
		require.NoError(t, err)
		require.NotZero(t, epoch)
		require.True(t, e.has(t, "local"))
		e.runner(t, redtask.NewRegistry(), fastMonitor(builtin.MonitorOptions{}))
		eventually(t, "it goes", func() bool { return !e.has(t, "local") })
	})
}

// The server's clock jumps an hour ahead: by it every lease is past, yet the runner lives and keeps its task.
func TestClockThatJumpsStealsNothing(t *testing.T) {
	t.Parallel()
	onMini := newMini(t)
	running := make(chan struct{}, 10)
	registry := redtask.NewRegistry()
	registry.Register("test/long", redtask.Func(func(ctx context.Context, _ any) error {
		running <- struct{}{}
		<-ctx.Done()
		return nil
	}))
	onMini.runner(t, registry)
	id := onMini.start(t, "test/long", redtask.StartOptions{})
	<-running
	onMini.runner(t, redtask.NewRegistry(), fastMonitor(builtin.MonitorOptions{}))
	for _, jump := range []time.Duration{time.Hour, 2 * time.Hour, -time.Hour, time.Hour, -2 * time.Hour} {
		at := time.Now().Add(jump)
		onMini.mini.SetTime(at)
		renewed := func(lease store.Lease) bool {
			end := time.UnixMilli(lease.End)
			return end.After(at) && end.Before(at.Add(time.Minute))
		}
		eventually(t, "both runners renewed by the new clock", func() bool {
			leases, _, err := onMini.queue.Leases(t.Context())
			return err == nil && len(leases) == 2 && renewed(leases[0]) && renewed(leases[1])
		})
	}
	record, err := onMini.client.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, redtask.StateRunning, record.State)
	require.Empty(t, running, "it never ran a second time")
	require.Zero(t, record.Recoveries)
}

// A clock that was set back leaves a dead runner's lease in the future: that it does not change tells that it is over.
func TestTasksOfADeadRunnerAfterAClockSetBack(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		id := e.start(t, "test/count", redtask.StartOptions{})
		require.Len(t, e.die(t, "dead", 1), 1)
		later := float64(time.Now().Add(time.Hour).UnixMilli())
		require.NoError(t, e.rdb.ZAdd(t.Context(), e.key("runners"), redis.Z{Score: later, Member: "dead"}).Err())
		var ran atomic.Int64
		registry := redtask.NewRegistry()
		registry.Register("test/count", count(&ran))
		e.runner(t, registry, fastMonitor(builtin.MonitorOptions{}))
		require.Equal(t, redtask.StateEnded, e.wait(t, id).State)
		require.EqualValues(t, 1, ran.Load())
	})
}

func TestMonitorOptionsRefused(t *testing.T) {
	t.Parallel()
	e := newMini(t)
	_, err := redtask.NewRunner(e.rdb, redtask.NewRegistry(), redtask.RunnerOptions{Locals: []redtask.Local{
		builtin.Monitor(builtin.MonitorOptions{Interval: -1, MaxRecoveries: -1, FirstDelay: time.Nanosecond}),
	}})
	require.ErrorIs(t, err, redtask.ErrInvalid)
	for _, part := range []string{"Interval -1ns", "MaxRecoveries -1", "FirstDelay 1ns", "redtask/monitor"} {
		require.ErrorContains(t, err, part)
	}
}
