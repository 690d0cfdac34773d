package main

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
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
	p := w.worker()
	events := w.watch("42")
	w.start("42", "example/hello", `{"text":"hi"}`)
	epoch := int64(0)
	for i, kind := range []string{"running", "text", "ended"} {
		event := w.next(events)
		require.Equal(t, kind, event.Name)
		require.EqualValues(t, i+1, event.Seq)
		require.Equal(t, "42", event.ID)
		require.Equal(t, "example/hello", event.Task)
		require.WithinDuration(t, time.Now(), event.Time(), time.Minute)
		if kind != "running" {
			require.JSONEq(t, `"hi"`, string(event.Data))
			require.Equal(t, epoch, event.Epoch)
		}
		epoch = event.Epoch
	}
	record := w.rdb.HGetAll(t.Context(), key("task:42")).Val()
	for _, field := range []string{"started_at", "ended_at"} {
		require.Len(t, record[field], len("1700000000000"), field)
		delete(record, field)
	}
	require.Equal(t, map[string]string{
		"task": "example/hello", "data": `{"text":"hi"}`, "state": "ENDED", "epoch": strconv.FormatInt(epoch, 10), "attempt": "1",
		"runner": p.id, "output": `"hi"`,
	}, record)

	w.cli("HSET", key("task:42"), "state", "WAIT", "data", `{"text":"again"}`)
	w.cli("LPUSH", key("wait"), "42")
	w.eventually("it ran again", func() bool { return w.field("42", "output") == `"again"` })
}

func TestEnds(t *testing.T) {
	w := newWorld(t)
	w.worker()
	const longest = "9223372036854"
	for _, c := range []struct{ task, data, state, field, value string }{
		{"example/sleep", `{"ms":1}`, "ENDED", "attempt", "1"},
		{"example/sleep", `{"ms":-1}`, "ERROR", "error", "ms is -1: use 0 to " + longest},
		{"example/sleep", `{"ms":"1"}`, "EXCEPTION", "attempt", "1"},
		{"example/stubborn", `{"ms":1}`, "ENDED", "attempt", "1"},
		{"example/stubborn", `{"ms":-1}`, "ERROR", "error", "ms is -1: use 0 to " + longest},
		{"example/fail", `{"text":"why not"}`, "ERROR", "error", "failed as asked: why not"},
		{"example/panic", `{}`, "EXCEPTION", "error", "panic: panicked as asked"},
		{"example/loop", `{"interval_ms":0}`, "ERROR", "error", "interval_ms is 0: use 1 to " + longest},
		{"example/loop", `{"interval_ms":-5}`, "ERROR", "error", "interval_ms is -5: use 1 to " + longest},
		{"example/loop", `{"interval_ms":9223372036855}`, "ERROR", "error", "interval_ms is 9223372036855: use 1 to " + longest},
		{"example/loop", `[]`, "EXCEPTION", "attempt", "1"},
		{"example/hallo", `{}`, "EXCEPTION", "error", `no runner of queue "default" knows a task named "example/hallo"; did you mean "example/hello"?`},
	} {
		id := c.task + c.data
		w.start(id, c.task, c.data)
		w.awaitState(id, c.state)
		require.Equal(t, c.value, w.field(id, c.field), id)
	}
	require.Contains(t, w.field("example/panic{}", "stack"), "main.panics")
}

// What ProvideContext opened is there in Start, and closed after it.
func TestContext(t *testing.T) {
	w := newWorld(t)
	p := w.worker()
	w.start("1", "example/context", "{}")
	w.awaitState("1", "ENDED")
	require.Equal(t, `"connected as example"`, w.field("1", "output"))
	w.eventually("the database is closed", func() bool { return strings.Contains(p.log.String(), "database closed") })
	p.signal(syscall.SIGTERM)
	require.NoError(t, p.awaitExit())
	require.Equal(t, 1, strings.Count(p.log.String(), "database opened"))
	require.Equal(t, 1, strings.Count(p.log.String(), "database closed"))
}

func TestLoopIsReloadedAndStopped(t *testing.T) {
	w := newWorld(t)
	p := w.worker()
	events := w.watch("loop")
	w.start("loop", "example/loop", `{"interval_ms":20}`)
	require.Equal(t, "running", w.next(events).Name)
	count := 0
	for range 3 {
		count++
		requireTick(t, w.next(events), count)
	}
	w.cli("HSET", key("task:loop"), "data", `{"interval_ms":10}`)
	require.Equal(t, "1", w.cli("PUBLISH", key("control:loop"), "reload"))
	for reloaded := 0; reloaded < 3; {
		event := w.next(events)
		if event.Name == "running" {
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
	for event := w.next(events); event.Name != "reload_failed"; event = w.next(events) {
		count++
		requireTick(t, event, count)
	}
	w.cli("PUBLISH", key("control:loop"), "what")
	for event := w.next(events); event.Name != "control_failed"; event = w.next(events) {
		count++
		requireTick(t, event, count)
	}
	w.eventually("the instance that was replaced is told by Stop", func() bool { return p.stops() == 1 })
	w.cli("PUBLISH", key("control:loop"), "stop")
	w.awaitState("loop", "STOPPED")
	p.signal(syscall.SIGTERM) // the log is whole when the process has ended
	require.NoError(t, p.awaitExit())
	require.Equal(t, 2, p.stops(), "and so was the one that was stopped")
}

// stops counts the calls of the loops' Stop, as far as the log has come through its pipe.
func (p *worker) stops() int { return strings.Count(p.log.String(), "loop is told to stop") }

func requireTick(t *testing.T, event redtask.Event, count int) {
	t.Helper()
	require.Equal(t, "tick", event.Name)
	var tick struct{ Count int }
	require.NoError(t, json.Unmarshal(event.Data, &tick))
	require.Equal(t, count, tick.Count)
}
