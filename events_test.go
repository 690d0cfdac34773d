package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/internal/store"
)

func TestEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/talk", FuncOut(func(ctx context.Context, n int) (string, error) {
			for i := range n {
				if err := FromContext(ctx).Emit("step", i); err != nil {
					return "", err
				}
			}
			return "done", FromContext(ctx).Progress(map[string]int{"percent": 100})
		}))
		client := e.client(t)
		const id = "talk \"42\" ünï" // quoting in Go and in Lua
		events, err := client.Watch(testContext(t), id)
		require.NoError(t, err)
		_, err = client.StartWith(testContext(t), "test/talk", 500, StartOptions{ID: id})
		require.NoError(t, err)
		e.runner(t, registry, nil)

		var got []Event
		for event := range events {
			got = append(got, event)
		}
		require.Len(t, got, 503)
		require.Equal(t, EventRunning, got[0].Name)
		for i, event := range got {
			require.EqualValues(t, i+1, event.Seq)
			require.Equal(t, got[0].Epoch, event.Epoch)
			require.Equal(t, id, event.ID)
			require.Equal(t, "test/talk", event.Task)
		}
		var n int
		require.NoError(t, got[500].Decode(&n))
		require.Equal(t, 499, n)
		require.Equal(t, EventProgress, got[501].Name)
		require.Equal(t, EventEnded, got[502].Name)
		require.JSONEq(t, `"done"`, string(got[502].Data))
		require.WithinDuration(t, time.Now(), got[502].Time(), time.Minute)

		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.JSONEq(t, `{"percent":100}`, string(record.Progress))
	})
}

func TestEmitRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		late := make(chan *Run, 1)
		registry.Register("test/bad", Func(func(ctx context.Context, _ any) error {
			run := FromContext(ctx)
			for _, name := range []string{"", "ended", "gap", "a\nb", "a\x00", strings.Repeat("x", 65)} {
				if err := run.Emit(name, nil); err == nil {
					return fmt.Errorf("took the event name %q", name)
				}
			}
			if err := run.Emit("ok", make(chan int)); err == nil {
				return fmt.Errorf("took a channel as data")
			}
			if err := run.Emit("ok", strings.Repeat("x", DefaultMaxData)); err == nil {
				return fmt.Errorf("took too much data")
			}
			if err := run.SetOutput(func() {}); err == nil {
				return fmt.Errorf("took a function as output")
			}
			late <- run
			return nil
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/bad", nil))
		require.Equal(t, StateEnded, record.State, record.Error)
		run := <-late
		for what, err := range map[string]error{
			`event "late"`: run.Emit("late", nil), "its output": run.SetOutput(1),
			"a progress report": run.Progress(1), "a checkpoint": run.Checkpoint(testContext(t), 1),
		} {
			require.EqualError(t, err, fmt.Sprintf("redtask: task %q has ended: %s comes too late", run.ID(), what))
		}
	})
}

func TestWatchQueue(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
		e.runner(t, registry, nil)
		client := e.client(t)
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		events, err := client.WatchQueue(ctx)
		require.NoError(t, err)
		want := map[string]bool{}
		for range 20 {
			want[start(t, client, "test/end", nil)] = true
		}
		for event := range events {
			if event.Name == EventEnded {
				delete(want, event.ID)
			}
			if len(want) == 0 {
				cancel() // the loop ends with ctx
			}
		}
		require.Empty(t, want)
	})
}

func TestWatchAFinalTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/fail", Func(func(context.Context, any) error { return Failf("no") }))
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/fail", nil)
		wait(t, client, id)
		events, err := client.Watch(testContext(t), id)
		require.NoError(t, err)
		var got []Event
		for event := range events {
			got = append(got, event)
		}
		require.Len(t, got, 1)
		require.Equal(t, EventError, got[0].Name)
		require.JSONEq(t, `{"error":"no"}`, string(got[0].Data))
	})
}

// late holds back commands until it is released.
type late struct {
	lossy
	command string
	until   *gate
}

func (l *late) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == l.command {
			l.until.wait()
		}
		return next(ctx, cmd)
	}
}

// What comes after Watch returned is not missed, even if the task is final by the time that the watcher reads its record.
func TestWatchIsCompleteFromItsReturn(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/tick", Func(func(ctx context.Context, _ any) error { return FromContext(ctx).Emit("tick", 1) }))
		e.runner(t, registry, nil)
		rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
		t.Cleanup(func() { _ = rdb.Close() })
		ended := newGate(t)
		rdb.AddHook(&late{command: "hgetall", until: ended})
		client, err := NewClient(rdb, ClientOptions{Prefix: e.prefix})
		require.NoError(t, err)
		events, err := client.Watch(testContext(t), "42")
		require.NoError(t, err)
		_, err = e.client(t).StartWith(testContext(t), "test/tick", nil, StartOptions{ID: "42"})
		require.NoError(t, err)
		wait(t, e.client(t), "42")
		ended.open()
		var kinds []string
		for event := range events {
			kinds = append(kinds, event.Name)
		}
		require.Equal(t, []string{"running", "tick", "ended"}, kinds)
	})
}

// Junk on the channel, and events that were published twice, do not reach the loop; a hole shows as a gap.
func TestWatchJunkRepeatsAndHoles(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		events, err := client.Watch(testContext(t), "42")
		require.NoError(t, err)
		publish := func(event string, epoch, seq int) {
			e.rdb.Publish(t.Context(), e.key("events:42"), fmt.Sprintf(`{"event":%q,"data":null,"id":"42","task":"t/t","epoch":%d,"seq":%d,"at":1}`,
				event, epoch, seq))
		}
		e.rdb.Publish(t.Context(), e.key("events:42"), "junk")
		e.rdb.Publish(t.Context(), e.key("events:42"), `{"event":5}`)
		publish("running", 7, 1)
		publish("a", 7, 2)
		publish("a", 7, 2)
		publish("b", 7, 4)
		publish("late", 6, 9)
		publish("ended", 7, 5)
		var got []string
		for event := range events {
			got = append(got, event.Name)
		}
		require.Equal(t, []string{"running", "a", EventGap, "b", "ended"}, got)
	})
}

// Of a queue too, the last event of a task comes once and last, and nothing is kept for good of tasks that are final. After Redis was
// emptied epochs begin with 1 again.
func TestWatchQueueRepeatsAndLateEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events, err := e.client(t).WatchQueue(testContext(t))
		require.NoError(t, err)
		publish := func(event, id string, epoch, seq int) {
			require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:"+id),
				fmt.Sprintf(`{"event":%q,"data":null,"id":%q,"task":"t/t","epoch":%d,"seq":%d,"at":1}`, event, id, epoch, seq)).Err())
		}
		publish("running", "42", 7, 1)
		publish("ended", "42", 7, 3)
		publish("late", "42", 7, 2)
		publish("ended", "42", 7, 3)
		publish("wait", "42", 8, 1)
		publish("stopped", "42", 9, 1)
		publish("running", "42", 1, 1)
		publish("ended", "42", 1, 2)
		publish("end of the test", "43", 1, 1)
		var got []string
		for event := range events {
			if event.ID == "43" {
				break
			}
			got = append(got, event.Name)
		}
		require.Equal(t, []string{"running", EventGap, "ended", "wait", "stopped", "running", "ended"}, got)
	})
}

func TestWatchForgetsFinalTasks(t *testing.T) {
	w := &watcher{seen: map[string]position{}}
	event := func(kind string, id, epoch int) {
		require.False(t, w.repeated(&Event{Name: kind, ID: fmt.Sprint(id), Epoch: int64(epoch), Seq: 1}))
	}
	event("running", -1, 1)
	event("ended", -2, 1)
	event("running", -2, 2)
	for id := range 3 * watchBuffer {
		event("ended", id, 1)
	}
	require.Len(t, w.seen, watchBuffer+2)
	require.Contains(t, w.seen, "-1")
	require.Contains(t, w.seen, "-2")
}

// countingConn counts what is read from a server.
type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// A loop that does not read loses events, never the server's breath, and sees the gap; the end is not lost.
func TestWatchSlowReader(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var read atomic.Int64
		rdb := redis.NewClient(&redis.Options{Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, e.rdb.Options().Addr)
			return countingConn{conn, &read}, err
		}})
		defer rdb.Close()
		client, err := NewClient(rdb, ClientOptions{Prefix: e.prefix})
		require.NoError(t, err)
		events, err := client.Watch(testContext(t), "42")
		require.NoError(t, err)
		const n = 3 * watchBuffer
		sent := int64(0)
		for seq := 1; seq <= n; seq++ {
			kind := "x"
			if seq == n {
				kind = "ended"
			}
			event := fmt.Sprintf(`{"event":%q,"data":null,"id":"42","task":"t/t","epoch":1,"seq":%d,"at":1}`, kind, seq)
			require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:42"), event).Err())
			sent += int64(len(event))
		}
		// An event has some 75 bytes, and 70 around it: when so much has come, so have more events than the buffer holds.
		eventually(t, "the watcher has read more than it can keep", func() bool { return read.Load() >= sent })
		gaps, ended, total := 0, 0, 0
		for event := range events {
			total++
			switch event.Name {
			case EventGap:
				gaps++
			case EventEnded:
				ended++
			}
		}
		require.Less(t, total, n)
		require.Positive(t, gaps)
		require.Equal(t, 1, ended)
	})
}

// Watch survives a restart of Redis, yields a gap, and finds an end that happened meanwhile.
func TestWatchReconnects(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	client := e.client(t)
	events, err := client.Watch(testContext(t), "42")
	require.NoError(t, err)
	got := make(chan Event, 100)
	go func() {
		defer close(got)
		for event := range events {
			got <- event
		}
	}()
	server.Kill()
	server.Restart(t)
	require.Equal(t, EventGap, receive(t, "gap", got).Name)
	publish := `{"event":"x","data":null,"id":"42","task":"t/t","epoch":1,"seq":1,"at":1}`
	require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:42"), publish).Err())
	require.Equal(t, "x", receive(t, "event after the restart", got).Name)

	server.Kill()
	server.Restart(t)
	require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:42"), "task", "t/t", "state", "ENDED", "output", "5").Err())
	for event := range got {
		if event.Name == EventEnded {
			require.Equal(t, "5", string(event.Data))
			return
		}
	}
	require.Fail(t, "the end was not found")
}

// Emit never waits for a Redis that is away: what does not fit is dropped, and its numbers are missing.
func TestEmitWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	e := newEnv(t, server.Addr, nil)
	running, down, emitted := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	registry := NewRegistry()
	registry.Register("test/talk", Func(func(ctx context.Context, _ any) error {
		close(running)
		<-down
		for i := range 1000 {
			if err := FromContext(ctx).Emit("step", i); err != nil {
				return err
			}
		}
		emitted <- nil
		return nil
	}))
	runner := e.runner(t, registry, func(o *RunnerOptions) { o.Lease, o.EventBuffer = time.Minute, 10 })
	client := e.client(t)
	id := start(t, client, "test/talk", nil)
	receive(t, "run", running)
	server.Kill()
	noticeOutage(t, runner.engines["default"])
	close(down)
	require.NoError(t, receive(t, "all emitted with Redis away", emitted))
	server.Restart(t)
	require.Equal(t, "ENDED", waitPlain(t, e, id)["state"])
}

// A few thousand events of the largest size would fill the memory: their bytes are bounded too, and room comes back as they go out.
func TestUnsentEventsAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	e := loneEngine(RunnerOptions{EventBuffer: 1000, MaxData: 100 << 20})
	e.committer.healthy.Store(false)
	r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1})
	defer r.cancel(nil)
	r.active = true
	text := strings.Repeat("x", 1<<20)
	for range 100 {
		require.NoError(t, r.Emit("big", text))
	}
	require.Len(t, e.committer.items, 63, "what fits in 64 MiB, with the JSON around it")
	require.EqualValues(t, 100, r.seq, "the numbers of dropped ones are used")
	for e.committer.unsent.events > 0 {
		e.committer.mu.Lock()
		f := e.committer.collect()
		e.committer.mu.Unlock()
		require.NotNil(t, f)
		e.committer.land(f)
	}
	require.Zero(t, e.committer.unsent.bytes)
	require.NoError(t, r.Emit("huge", strings.Repeat("x", maxEventBytes)), "one alone goes, however big")
	require.Len(t, e.committer.items, 1)
}

// What a reload's Init emits beyond the buffer is missing, and the numbers say so.
func TestEventsOfAnInitAreBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/talk", func() Task {
			return (&script{
				init: func(ctx context.Context, data json.RawMessage) error {
					for i := 0; string(data) == `"new"` && i < 8; i++ {
						if err := FromContext(ctx).Emit("step", i); err != nil {
							return err
						}
					}
					return nil
				},
				start: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			}).task()
		})
		e.runner(t, registry, func(o *RunnerOptions) { o.EventBuffer = 5 })
		client := e.client(t)
		events, err := client.Watch(testContext(t), "42")
		require.NoError(t, err)
		_, err = client.StartWith(testContext(t), "test/talk", nil, StartOptions{ID: "42"})
		require.NoError(t, err)
		var seen []string
		for event := range events {
			seen = append(seen, event.Name)
			switch {
			case event.Name == EventRunning && event.Seq == 1 && len(seen) == 1:
				require.NoError(t, client.ReloadWith(testContext(t), "42", "new"))
			case event.Name == "step" && event.Seq == 6:
				require.NoError(t, client.Stop(testContext(t), "42"))
			}
		}
		require.Equal(t, []string{"running", "running", "step", "step", "step", "step", "step", "gap", "stopped"}, seen)
	})
}

// noticeOutage makes the committer try, and waits until it has failed.
func noticeOutage(t *testing.T, e *engine) {
	t.Helper()
	for _, r := range e.snapshot() {
		if !r.local {
			e.committer.writeLater(r, "probe", "1")
		}
	}
	eventually(t, "the committer notices", func() bool { return !e.committer.healthy.Load() })
}

// With Redis well a full buffer makes Emit wait: nothing is lost.
func TestEmitWaitsForRoom(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/talk", Func(func(ctx context.Context, _ any) error {
			for i := range 300 {
				if err := FromContext(ctx).Emit("step", i); err != nil {
					return err
				}
			}
			return nil
		}))
		client := e.client(t)
		events, err := client.Watch(testContext(t), "42")
		require.NoError(t, err)
		_, err = client.StartWith(testContext(t), "test/talk", nil, StartOptions{ID: "42"})
		require.NoError(t, err)
		e.runner(t, registry, func(o *RunnerOptions) { o.EventBuffer = 3 })
		steps := 0
		for event := range events {
			require.NotEqual(t, EventGap, event.Name)
			if event.Name == "step" {
				steps++
			}
		}
		require.Equal(t, 300, steps)
	})
}

func TestEventString(t *testing.T) {
	t.Parallel()
	event := Event{Name: "ended", ID: "42", Task: "app/x", Data: json.RawMessage(`1`)}
	require.Contains(t, event.String(), "42 app/x ended 1")
}

func TestCheckpointSurvivesAMove(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		counts := make(chan int, 10)
		registry := NewRegistry()
		registry.Register("test/count", Func(func(ctx context.Context, _ any) error {
			n := 0
			if _, err := FromContext(ctx).LoadCheckpoint(ctx, &n); err != nil {
				return err
			}
			n++
			if err := FromContext(ctx).Checkpoint(ctx, n); err != nil {
				return err
			}
			counts <- n
			<-ctx.Done()
			return nil
		}))
		first := e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/count", nil)
		require.Equal(t, 1, receive(t, "first", counts))
		require.NoError(t, shutdown(t, first))
		e.runner(t, registry, nil)
		require.Equal(t, 2, receive(t, "second", counts))
		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.JSONEq(t, "2", string(record.Checkpoint))
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
	})
}
