package main

import (
	"context"
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
)

// watch subscribes to a task's events with nothing but Redis.
func (w *world) watch(id string) *redis.PubSub {
	w.Helper()
	events := w.rdb.Subscribe(context.Background(), key("events:"+id))
	w.Cleanup(func() { _ = events.Close() })
	_, err := events.Receive(w.Context())
	require.NoError(w, err)
	return events
}

func (w *world) next(events *redis.PubSub) redtask.Event {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	message, err := events.ReceiveMessage(ctx)
	require.NoError(w, err)
	var event redtask.Event
	require.NoError(w, json.Unmarshal([]byte(message.Payload), &event), message.Payload)
	return event
}

func TestHello(t *testing.T) {
	w := newWorld(t)
	w.worker()
	events := w.watch("42")
	w.start("42", "example/hello", `{"text":"hi"}`)
	for i, kind := range []string{"running", "text", "ended"} {
		event := w.next(events)
		require.Equal(t, kind, event.Event)
		require.EqualValues(t, i+1, event.Seq)
		require.Equal(t, "42", event.ID)
		require.Equal(t, "example/hello", event.Task)
		if kind != "running" {
			require.JSONEq(t, `"hi"`, string(event.Data))
		}
	}
	w.awaitState("42", "ENDED")
	require.Equal(t, `"hi"`, w.field("42", "output"))
	w.cli("HSET", key("task:42"), "state", "WAIT", "data", `{"text":"again"}`)
	w.cli("LPUSH", key("wait"), "42")
	w.eventually("it ran again", func() bool { return w.field("42", "output") == `"again"` })
}

func TestEnds(t *testing.T) {
	w := newWorld(t)
	w.worker()
	for _, c := range []struct{ task, data, state, field, value string }{
		{"example/sleep", `{"ms":1}`, "ENDED", "attempt", "1"},
		{"example/fail", `{"text":"why not"}`, "ERROR", "error", "failed as asked: why not"},
		{"example/panic", `{}`, "EXCEPTION", "error", "panic: panicked as asked"},
		{"example/context", `{}`, "ENDED", "output", `"connected as example"`},
		{"example/loop", `{"interval_ms":0}`, "ERROR", "error", "interval_ms is 0: use at least 1"},
		{"example/loop", `[]`, "EXCEPTION", "attempt", "1"},
		{"example/hallo", `{}`, "EXCEPTION", "error", `no runner of queue "default" knows a task named "example/hallo"; did you mean "example/hello"?`},
	} {
		id := c.task + c.data
		w.start(id, c.task, c.data)
		w.awaitState(id, c.state)
		require.Equal(t, c.value, w.field(id, c.field), c.task)
	}
}

func TestLoopIsReloadedAndStopped(t *testing.T) {
	w := newWorld(t)
	w.worker()
	events := w.watch("loop")
	w.start("loop", "example/loop", `{"interval_ms":20}`)
	require.Equal(t, "running", w.next(events).Event)
	count := 0
	for range 3 {
		count++
		requireTick(t, w.next(events), count)
	}
	w.cli("HSET", key("task:loop"), "data", `{"interval_ms":10}`)
	require.Equal(t, "1", w.cli("PUBLISH", key("control:loop"), "reload"))
	for reloaded := 0; reloaded < 3; {
		event := w.next(events)
		if event.Event == "running" {
			require.Contains(t, string(event.Data), "reloaded")
			reloaded = 1
			continue
		}
		count++
		requireTick(t, event, count)
		if reloaded > 0 {
			reloaded++
		}
	}
	w.cli("HSET", key("task:loop"), "data", `{"interval_ms":-1}`)
	w.cli("PUBLISH", key("control:loop"), "reload")
	for event := w.next(events); event.Event != "reload_failed"; event = w.next(events) {
		count++
		requireTick(t, event, count)
	}
	w.cli("PUBLISH", key("control:loop"), "what")
	w.cli("PUBLISH", key("control:loop"), "stop")
	w.awaitState("loop", "STOPPED")
}

func requireTick(t *testing.T, event redtask.Event, count int) {
	t.Helper()
	require.Equal(t, "tick", event.Event)
	var tick struct{ Count int }
	require.NoError(t, json.Unmarshal(event.Data, &tick))
	require.Equal(t, count, tick.Count)
}

// A task that ignores its ctx stays leased: nobody else runs it, and the worker says its name and ends all the same.
func TestStubborn(t *testing.T) {
	w := newWorld(t)
	p := w.worker("-grace", "0")
	w.start("mule", "example/stubborn", `{"ms":3600000}`)
	w.awaitState("mule", "RUNNING")
	w.start("short", "example/stubborn", `{"ms":100}`)
	w.cli("PUBLISH", key("control:short"), "stop")
	w.eventually("the short one ends", func() bool { s := w.field("short", "state"); return s == "STOPPED" || s == "ENDED" })
	p.signal(syscall.SIGTERM)
	require.Error(t, p.awaitExit())
	require.Contains(t, p.log.String(), "example/stubborn (ID mule)")
	require.Equal(t, "RUNNING", w.field("mule", "state"))
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-queues", "a=x"}, {"-queues", "{a}"}, {"-queues", ""}, {"-concurrency", "0"}, {"-lease", "1ms"}, {"-grace", "-5s"}, {"stray"}, {"-nothing"},
	} {
		var out syncBuffer
		require.Error(t, run(t.Context(), args, &out), args)
	}
	options, err := parse([]string{"-queues", "default,mail=3", "-concurrency", "7", "-grace", "0"}, &syncBuffer{})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"default": 7, "mail": 3}, options.Queues)
	require.Equal(t, redtask.NoGrace, options.Grace)
}
