package main

import (
	"context"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
)

// startMany starts n tasks of a kind, with IDs `KIND0`, `KIND1`, …
func (w *world) startMany(kind, data string, n int) []string {
	w.Helper()
	ids := make([]string, n)
	_, err := w.rdb.Pipelined(w.Context(), func(p redis.Pipeliner) error {
		for i := range ids {
			ids[i] = kind + strconv.Itoa(i)
			p.HSet(w.Context(), key("task:"+ids[i]), "task", "example/"+kind, "data", data)
			p.LPush(w.Context(), key("wait"), ids[i])
		}
		return nil
	})
	require.NoError(w, err)
	return ids
}

// fields reads one field of many tasks.
func (w *world) fields(ids []string, field string) []string {
	cmds, err := w.rdb.Pipelined(context.Background(), func(p redis.Pipeliner) error {
		for _, id := range ids {
			p.HMGet(context.Background(), key("task:"+id), field)
		}
		return nil
	})
	require.NoError(w, err)
	values := make([]string, len(ids))
	for i, cmd := range cmds {
		values[i], _ = cmd.(*redis.SliceCmd).Val()[0].(string)
	}
	return values
}

func (w *world) counts(ids []string) []int {
	counts := make([]int, len(ids))
	for i, value := range w.fields(ids, "checkpoint") {
		counts[i], _ = strconv.Atoi(value)
	}
	return counts
}

func (w *world) awaitCounts(what string, ids []string, above []int) {
	w.Helper()
	w.eventually(what, func() bool {
		for i, count := range w.counts(ids) {
			if count <= above[i] {
				return false
			}
		}
		return true
	})
}

// A deploy: SIGTERM moves all that runs to the other worker, with no attempt counted, and loops go on from their checkpoint.
func TestSigtermMovesTasks(t *testing.T) {
	w := newWorld(t)
	first := w.worker()
	sleeps := w.startMany("sleep", `{"ms":3600000}`, 20)
	loops := w.startMany("loop", `{"interval_ms":50}`, 5)
	w.awaitCounts("loops tick", loops, make([]int, 5))
	w.eventually("all run", func() bool { return first.running() == 25 })
	events := w.rdb.PSubscribe(w.Context(), key("events:loop*"))
	t.Cleanup(func() { _ = events.Close() })
	_, err := events.Receive(w.Context())
	require.NoError(t, err)

	second := w.worker()
	began := time.Now()
	first.signal(syscall.SIGTERM)
	w.eventually("all run on the second", func() bool { return second.running() == 25 })
	moved := time.Since(began)
	require.NoError(t, first.awaitExit())
	t.Logf("moved 25 tasks in %s; the first worker's process ended after %s", moved, first.ended.Sub(began))
	before := w.counts(loops)
	w.awaitCounts("loops tick on", loops, before)
	for _, field := range []struct{ name, value string }{
		{"attempt", "1"}, {"recoveries", ""}, {"runner", second.id}, {"state", "RUNNING"}, // given back, not taken over
	} {
		for i, value := range w.fields(append(sleeps, loops...), field.name) {
			require.Equal(t, field.value, value, "%s of task %d", field.name, i)
		}
	}
	w.requireCountsInOrder(events, loops)
}

// requireCountsInOrder reads the loops' ticks up to now. In a run each count follows the one before; a run goes on where the last one had
// its checkpoint, whose event may have died with the worker.
func (w *world) requireCountsInOrder(events *redis.PubSub, loops []string) {
	w.Helper()
	until := map[string]int{}
	for i, count := range w.counts(loops) {
		until[loops[i]] = count
	}
	type position struct {
		epoch int64
		count int
	}
	last := map[string]position{}
	for len(until) > 0 {
		event := w.next(events)
		if event.Name != "tick" {
			continue
		}
		var tick struct{ Count int }
		require.NoError(w, event.Decode(&tick))
		before, seen := last[event.ID]
		switch {
		case seen && before.epoch == event.Epoch:
			require.Equal(w, before.count+1, tick.Count, "in one run of %s", event.ID)
		case seen:
			require.Greater(w, event.Epoch, before.epoch, event.ID)
			require.Greater(w, tick.Count, before.count, "%s went back when it moved", event.ID)
		}
		last[event.ID] = position{event.Epoch, tick.Count}
		if tick.Count >= until[event.ID] {
			delete(until, event.ID)
		}
	}
}

// A crash: kill -9 of a worker with 1,000 sleeps and 50 loops. Another one brings each of them back.
func TestKilledWorker(t *testing.T) {
	w := newWorld(t)
	options := []string{"-concurrency", "1100", "-lease", "3s"}
	first := w.worker(options...)
	sleeps := w.startMany("sleep", `{"ms":3600000}`, 1000)
	loops := w.startMany("loop", `{"interval_ms":100}`, 50)
	w.awaitCounts("loops tick", loops, make([]int, 50))
	w.eventually("all run", func() bool { return first.running() == 1050 })
	events := w.rdb.PSubscribe(w.Context(), key("events:loop*"))
	t.Cleanup(func() { _ = events.Close() })
	_, err := events.Receive(w.Context())
	require.NoError(t, err)

	second := w.worker(options...)
	began := time.Now()
	first.signal(syscall.SIGKILL)
	require.Error(t, first.awaitExit())
	w.eventually("all run on the second", func() bool { return second.running() == 1050 })
	t.Logf("all 1,050 ran again %s after kill -9, with a lease of 3 s", time.Since(began))
	before := w.counts(loops)
	w.awaitCounts("loops tick on", loops, before)
	for _, field := range []struct{ name, value string }{{"attempt", "1"}, {"recoveries", "1"}, {"runner", second.id}, {"state", "RUNNING"}} {
		for i, value := range w.fields(append(sleeps, loops...), field.name) {
			require.Equal(t, field.value, value, "%s of task %d", field.name, i)
		}
	}
	w.requireCountsInOrder(events, loops)
	w.eventually("nothing is left of the first", func() bool {
		keys, err := w.rdb.Keys(context.Background(), "*"+first.id+"*").Result()
		return err == nil && len(keys) == 0
	})
}

// Poison: a task that kills each worker that runs it is delayed from its second recovery on; its neighbours live. A stop ends it, though
// no worker is there to be told.
func TestCrash(t *testing.T) {
	w := newWorld(t)
	options := []string{"-lease", "1500ms"}
	loops := []string{"loop0"}
	poison, ticks := w.watch("poison"), w.watch("loop0")
	first := w.worker(options...)
	w.startMany("loop", `{"interval_ms":20}`, 1)
	w.awaitCounts("the neighbour ticks", loops, []int{0})
	w.start("poison", "example/crash", "{}")
	require.ErrorContains(t, first.awaitExit(), "exit status 3")

	for _, recovery := range []string{"wait", "scheduled"} {
		neighbour := "before it is " + recovery
		w.start(neighbour, "example/hello", `{"text":"hi"}`)
		dying := w.worker(options...)
		w.awaitState(neighbour, "ENDED")
		event := w.next(poison)
		for event.Name == "running" { // it may, or may not, be out before the process dies
			event = w.next(poison)
		}
		require.Equal(t, recovery, event.Name)
		require.Contains(t, string(event.Data), `"recovered"`)
		require.ErrorContains(t, dying.awaitExit(), "exit status 3")
	}
	require.Equal(t, "2", w.field("poison", "recoveries"))
	require.Equal(t, "1", w.field("poison", "attempt"))

	client, err := redtask.NewClient(w.rdb, redtask.ClientOptions{})
	require.NoError(t, err)
	require.NoError(t, client.Stop(t.Context(), "poison"))
	before := w.counts(loops)
	last := w.worker(options...)
	w.awaitState("poison", "STOPPED")
	w.awaitCounts("the neighbour ticks on", loops, before)
	w.requireCountsInOrder(ticks, loops)
	require.Equal(t, last.id, w.field("loop0", "runner"))
	require.False(t, last.hasEnded())
}
