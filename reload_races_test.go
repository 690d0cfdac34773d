package redtask

import (
	"context"
	"encoding/json"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A shutdown while a reload hands over: the new instance is told, though it was not there when all were.
func TestShutdownDuringAHandOver(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		runner := e.runner(t, blockRegistry(b), func(o *RunnerOptions) { o.Locals = []Local{} })
		engine := runner.engines["default"]
		client := e.client(t)
		x := start(t, client, "test/block", nil)
		receive(t, "x", b.running)
		start(t, client, "test/block", nil)
		receive(t, "y", b.running)
		redis := newGate(t)
		engine.committer.do(func(context.Context) { redis.wait() }) // it is slow just now
		require.NoError(t, client.Reload(testContext(t), x))
		require.ErrorIs(t, receive(t, "x ends for its successor", b.causes), ErrReloaded)
		result := make(chan error, 1)
		go func() { result <- shutdown(t, runner) }()
		require.ErrorIs(t, receive(t, "y is told", b.causes), ErrShutdown)
		redis.open()
		require.NoError(t, receive(t, "shutdown", result))
	})
}

// redis-cli: HSET data, PUBLISH reload, while an earlier reload is under way.
func TestReloadAgainWithDataByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		inits, gate := make(chan string, 10), newGate(t)
		running := make(chan string, 10)
		registry := NewRegistry()
		registry.Register("test/conf", func() Task {
			var data string
			return (&script{
				init: func(_ context.Context, raw json.RawMessage) error {
					data = string(raw)
					inits <- data
					if data == "1" {
						gate.wait()
					}
					return nil
				},
				start: func(ctx context.Context) error { running <- data; <-ctx.Done(); return ctx.Err() },
			}).task()
		})
		runner := e.runner(t, registry, nil)
		id := start(t, e.client(t), "test/conf", 0)
		require.Equal(t, "0", receive(t, "runs", running))
		reload := func(data string) {
			require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:"+id), "data", data).Err())
			e.publish(t, id, "reload")
		}
		receive(t, "init 0", inits)
		reload("1")
		require.Equal(t, "1", receive(t, "init 1", inits))
		reload("2")
		r := runner.engines["default"].find(id)
		eventually(t, "the second reload is heard", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.reloading.again })
		gate.open()
		last := receive(t, "runs", running)
		if last == "1" { // else the second reload was ready before this one's Start
			last = receive(t, "runs with what was written last", running)
		}
		require.Equal(t, "2", last)
		require.Equal(t, "2", receive(t, "init 2", inits))
		require.Empty(t, inits, "once more, and no more")
	})
}

// A new instance whose Init ignores its ctx is reported: the stop of its task waits for it.
func TestStuckInitOfAReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var n atomic.Int64
		gate, second, running := newGate(t), make(chan struct{}), make(chan struct{}, 3)
		registry := NewRegistry()
		registry.Register("test/x", func() Task {
			return (&script{
				init: func(_ context.Context, _ json.RawMessage) error {
					if n.Add(1) == 2 {
						close(second)
						gate.wait()
					}
					return nil
				},
				start: func(ctx context.Context) error { running <- struct{}{}; <-ctx.Done(); return ctx.Err() },
			}).task()
		})
		e.runner(t, registry, func(o *RunnerOptions) { o.StuckAfter = 50 * time.Millisecond })
		defer gate.open()
		client := e.client(t)
		id := start(t, client, "test/x", nil)
		receive(t, "runs", running)
		require.NoError(t, client.Reload(testContext(t), id))
		receive(t, "second init", second)
		require.NoError(t, client.Stop(testContext(t), id))
		eventually(t, "the report", func() bool { return e.log.has("ignores that it was told to stop") })
	})
}

// Goexit in Init of a reload's new instance, as a test's FailNow does, fails that reload; the next one works.
func TestGoexitInReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var n atomic.Int64
		running := make(chan struct{}, 3)
		registry := NewRegistry()
		registry.Register("test/x", func() Task {
			return (&script{
				init: func(_ context.Context, _ json.RawMessage) error {
					if n.Add(1) == 2 {
						runtime.Goexit()
					}
					return nil
				},
				start: func(ctx context.Context) error { running <- struct{}{}; <-ctx.Done(); return ctx.Err() },
			}).task()
		})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/x", nil)
		receive(t, "runs", running)
		require.NoError(t, client.Reload(testContext(t), id))
		// A runner that begins to listen just now may hear of it twice: then the second one has worked already.
		eventually(t, "it failed", func() bool { return e.log.has("reload failed") })
		require.NoError(t, client.Reload(testContext(t), id))
		receive(t, "runs again", running)
	})
}

// slowToStop is a task whose Start returns as soon as it is told, while the Stop of its first instance goes on until the gate opens.
type slowToStop struct {
	running  chan string
	stopping chan struct{}
	release  *gate
	first    atomic.Bool
}

func (s *slowToStop) factory() Task {
	var data string
	told := make(chan struct{})
	return (&script{
		init: func(_ context.Context, raw json.RawMessage) error { data = string(raw); return nil },
		start: func(ctx context.Context) error {
			s.running <- data
			select {
			case <-told:
			case <-ctx.Done():
			}
			return nil
		},
		stop: func(context.Context) error {
			close(told)
			if s.first.CompareAndSwap(true, false) {
				close(s.stopping)
				s.release.wait()
			}
			return nil
		},
	}).task()
}

func withNewData(run string, _ Event) bool { return run == "2" }

func putBack(_ string, event Event) bool {
	return event.Name == EventWait && string(event.Data) == `{"reason":"restarted"}`
}

// await waits for a run or an event.
func await(t *testing.T, runs <-chan string, events <-chan Event, until func(string, Event) bool) {
	t.Helper()
	ctx := testContext(t)
	for run, event := "", (Event{}); !until(run, event); {
		run, event = "", Event{}
		select {
		case run = <-runs:
		case event = <-events:
		case <-ctx.Done():
			require.FailNow(t, "nothing arrived")
		}
	}
}

// What is told between the end of the old run and the hand-over is accepted, so it must happen.
func TestToldInTheHandOver(t *testing.T) {
	for name, c := range map[string]struct {
		local bool
		tell  func(t *testing.T, e *env, client *Client, id string)
		until func(run string, event Event) bool // nil: nothing runs any more
	}{
		"reload with new data": {false, func(t *testing.T, _ *env, client *Client, id string) {
			require.NoError(t, client.ReloadWith(t.Context(), id, 2))
		}, withNewData},
		"reload of data set by hand": {false, func(t *testing.T, e *env, client *Client, id string) {
			require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:"+id), "data", "2").Err())
			require.NoError(t, client.Reload(t.Context(), id))
		}, withNewData},
		"restart": {false, func(t *testing.T, _ *env, client *Client, id string) {
			require.NoError(t, client.Restart(t.Context(), id))
		}, putBack},
		"stop": {false, func(t *testing.T, _ *env, client *Client, id string) {
			require.NoError(t, client.Stop(t.Context(), id))
		}, nil},
		"stop of a local task": {true, func(t *testing.T, _ *env, client *Client, id string) {
			require.NoError(t, client.Stop(t.Context(), id))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				task := &slowToStop{running: make(chan string, 10), stopping: make(chan struct{}), release: newGate(t)}
				task.first.Store(true)
				registry := NewRegistry()
				registry.Register("test/slow", task.factory)
				runner := e.runner(t, registry, func(o *RunnerOptions) { fastLease(o); o.Locals = []Local{} })
				client := e.client(t)
				id := ""
				if c.local {
					var err error
					id, err = runner.StartLocal(testContext(t), "default", "test/slow", 0)
					require.NoError(t, err)
				} else {
					id = start(t, client, "test/slow", 0)
				}
				require.Equal(t, "0", receive(t, "runs", task.running))
				events := make(chan Event, 100)
				seen, err := client.Watch(testContext(t), id)
				require.NoError(t, err)
				go func() {
					for event := range seen {
						events <- event
					}
				}()
				r := runner.engines["default"].find(id)
				require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:"+id), "data", "1").Err())
				require.NoError(t, client.Reload(t.Context(), id))
				receive(t, "stopping", task.stopping)
				eventually(t, "over", r.isOver)
				c.tell(t, e, client, id)
				task.release.open()
				if c.until != nil {
					await(t, task.running, events, c.until)
				} else {
					eventually(t, "nothing of it is left here", func() bool { return runner.engines["default"].find(id) == nil })
					require.Empty(t, task.running)
					require.Equal(t, !c.local, e.rdb.Exists(t.Context(), e.key("task:"+id)).Val() == 1, "a local task leaves no record")
					require.Equal(t, !c.local, e.rdb.ZCard(t.Context(), e.key("final:STOPPED")).Val() == 1)
				}
			})
		})
	}
}
