package redtask

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wire is a connection that speaks RESP and knows nothing of this library: what any client in any language can do.
type wire struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	key  func(rest string) string
}

func (e *env) wire(t *testing.T) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", e.rdb.Options().Addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return &wire{t: t, conn: conn, in: bufio.NewReader(conn), key: e.key}
}

func (w *wire) send(args ...string) {
	w.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&text, "$%d\r\n%s\r\n", len(arg), arg)
	}
	_, err := io.WriteString(w.conn, text.String())
	require.NoError(w.t, err)
}

// read reads one reply: a string, an int64, a list, nil, or an error.
func (w *wire) read() any {
	w.t.Helper()
	line, err := w.in.ReadString('\n')
	require.NoError(w.t, err)
	kind, rest := line[0], strings.TrimSuffix(line[1:], "\r\n")
	if kind == '+' {
		return rest
	}
	if kind == '-' {
		return errors.New(rest)
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	require.NoError(w.t, err)
	switch {
	case kind == ':':
		return n
	case n < 0:
		return nil
	case kind == '$':
		text := make([]byte, n+2)
		_, err = io.ReadFull(w.in, text)
		require.NoError(w.t, err)
		return string(text[:n])
	}
	require.Equal(w.t, byte('*'), kind)
	values := make([]any, n)
	for i := range values {
		values[i] = w.read()
	}
	return values
}

func (w *wire) do(args ...string) any {
	w.t.Helper()
	w.send(args...)
	reply := w.read()
	err, failed := reply.(error)
	require.False(w.t, failed, "%.100q: %v", args, err)
	return reply
}

// task writes a task's hash; run puts IDs in line.
func (w *wire) task(id string, fields ...string) {
	w.t.Helper()
	w.do(append([]string{"HSET", w.key("task:" + id)}, fields...)...)
}

func (w *wire) run(ids ...string) {
	w.t.Helper()
	w.do(append([]string{"LPUSH", w.key("wait")}, ids...)...)
}

func (w *wire) field(id, field string) string {
	w.t.Helper()
	text, _ := w.do("HGET", w.key("task:"+id), field).(string)
	return text
}

// tell publishes a word on a task's control channel, again until a runner is there to hear it.
func (w *wire) tell(id, word string) {
	w.t.Helper()
	for w.do("PUBLISH", w.key("control:"+id), word) == int64(0) {
		require.NoError(w.t, w.t.Context().Err())
	}
}

// subscribe makes of the connection one that hears the events of IDs, or without one of the whole queue.
func (w *wire) subscribe(ids ...string) *wire {
	w.t.Helper()
	for _, id := range ids {
		w.send("SUBSCRIBE", w.key("events:"+id))
		require.Equal(w.t, "subscribe", w.read().([]any)[0])
	}
	if len(ids) == 0 {
		w.send("PSUBSCRIBE", w.key("events:*"))
		require.Equal(w.t, "psubscribe", w.read().([]any)[0])
	}
	return w
}

// event reads the next event, and checks the fields that the protocol promises.
func (w *wire) event() Event {
	w.t.Helper()
	message := w.read().([]any)
	payload := []byte(message[len(message)-1].(string))
	var fields map[string]json.RawMessage
	require.NoError(w.t, json.Unmarshal(payload, &fields), "%q", payload)
	require.ElementsMatch(w.t, []string{"event", "data", "id", "task", "epoch", "seq", "at"}, slices.Collect(maps.Keys(fields)))
	var event Event
	require.NoError(w.t, json.Unmarshal(payload, &event))
	require.Positive(w.t, event.Epoch)
	require.Positive(w.t, event.Seq)
	require.InDelta(w.t, time.Now().UnixMilli(), event.At, 120_000, "Unix ms")
	return event
}

// until reads events up to one of that kind of the ID.
func (w *wire) until(id, kind string) Event {
	w.t.Helper()
	for {
		if event := w.event(); event.Name == kind && event.ID == id {
			return event
		}
	}
}

// untilEnded reads events until all the IDs have ended, in whatever order.
func (w *wire) untilEnded(ids ...string) {
	w.t.Helper()
	for left := len(ids); left > 0; {
		if event := w.event(); event.final() {
			require.Equal(w.t, EventEnded, event.Name, event.ID)
			require.Contains(w.t, ids, event.ID)
			left--
		}
	}
}

// wireRunner serves the tasks that the tests start.
func wireRunner(t *testing.T, e *env) *versions {
	t.Helper()
	type greeting struct{ Text string }
	v := newVersions()
	registry := NewRegistry()
	registry.Register("app/hello", FuncOut(func(ctx context.Context, in greeting) (string, error) {
		return in.Text, FromContext(ctx).Emit("text", in.Text)
	}))
	registry.Register("app/versions", v.factory)
	e.runner(t, registry, nil)
	return v
}

func TestWireStartAndWatch(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		wireRunner(t, e)
		w, events := e.wire(t), e.wire(t).subscribe("42")
		w.task("42", "task", "app/hello", "data", `{"text":"hi"}`)
		w.run("42")
		last := int64(0)
		for attempt := 1; attempt <= 3; attempt++ {
			var epoch int64
			for i, want := range []struct{ kind, data string }{{"running", ""}, {"text", `"hi"`}, {"ended", `"hi"`}} {
				event := events.event()
				require.Equal(t, want.kind, event.Name)
				require.Equal(t, "42 app/hello", event.ID+" "+event.Task)
				require.EqualValues(t, i+1, event.Seq, "from 1 in each epoch, without holes")
				if i == 0 {
					epoch = event.Epoch
					require.Contains(t, string(event.Data), fmt.Sprintf(`"attempt":%d`, attempt))
				} else {
					require.JSONEq(t, want.data, string(event.Data))
				}
				require.Equal(t, epoch, event.Epoch)
			}
			require.Greater(t, epoch, last, "each run has an epoch of its own")
			last = epoch
			require.Equal(t, "ENDED", w.field("42", "state"), "the final state is written before its event")
			require.Equal(t, `"hi"`, w.field("42", "output"))
			require.Equal(t, fmt.Sprint(epoch), w.field("42", "epoch"))

			w.task("42", "state", "WAIT") // and again
			w.run("42")
		}
		require.Equal(t, "ended", events.until("42", "ended").Name)
		require.Nil(t, w.do("HGET", w.key("counters"), "dropped"))
	})
}

func TestWireStop(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v := wireRunner(t, e)
		w, events := e.wire(t), e.wire(t).subscribe("42")
		w.task("42", "task", "app/versions", "data", `"one"`)
		w.run("42")
		first := events.until("42", "running")
		require.Equal(t, "one", receive(t, "start", v.starts))
		w.tell("42", "stop")
		last := events.event()
		require.Equal(t, "stopped", last.Name)
		require.Equal(t, first.Epoch, last.Epoch)
		require.EqualValues(t, 2, last.Seq)
		require.Equal(t, "STOPPED", w.field("42", "state"))
	})
}

func TestWireReloadAndRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v := wireRunner(t, e)
		w, events := e.wire(t), e.wire(t).subscribe("42")
		w.task("42", "task", "app/versions", "data", `"one"`)
		w.run("42")
		first := events.until("42", "running")
		require.Equal(t, "one", receive(t, "start", v.starts))

		w.task("42", "data", `"two"`)
		w.tell("42", "reload")
		reloaded := events.event()
		require.Equal(t, "running", reloaded.Name)
		require.Contains(t, string(reloaded.Data), `"reason":"reloaded"`)
		require.Greater(t, reloaded.Epoch, first.Epoch)
		require.EqualValues(t, 1, reloaded.Seq)
		require.Equal(t, "two", receive(t, "start of the new", v.starts))
		require.Equal(t, "one:"+ErrReloaded.Error(), receive(t, "end of the old", v.ends))

		w.task("42", "data", `"bad"`)
		w.tell("42", "reload")
		failed := events.event()
		require.Equal(t, "reload_failed", failed.Name)
		require.Contains(t, string(failed.Data), "cannot do bad")
		require.Equal(t, reloaded.Epoch, failed.Epoch, "the old one goes on")
		require.EqualValues(t, 2, failed.Seq)

		w.task("42", "data", `"three"`)
		w.tell("42", "restart")
		back := events.event()
		require.Equal(t, "wait", back.Name)
		require.JSONEq(t, `{"reason":"restarted"}`, string(back.Data))
		require.EqualValues(t, 3, back.Seq)
		again := events.event()
		require.Equal(t, "running", again.Name)
		require.Greater(t, again.Epoch, reloaded.Epoch)
		require.Equal(t, "three", receive(t, "start again", v.starts))
		w.tell("42", "stop")
		events.until("42", "stopped")
	})
}

// PSUBSCRIBE hears a whole queue; each task's events are gapless for themselves.
func TestWireWatchQueue(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		wireRunner(t, e)
		w, events := e.wire(t), e.wire(t).subscribe()
		ids := make([]string, 50)
		for i := range ids {
			ids[i] = fmt.Sprint("n", i)
			w.task(ids[i], "task", "app/hello", "data", fmt.Sprintf(`{"text":"%d"}`, i))
		}
		w.run(ids...)
		seen := map[string]position{}
		for ended := 0; ended < len(ids); {
			event := events.event()
			if !slices.Contains(ids, event.ID) {
				continue // the runner's own tasks
			}
			if event.Seq == 1 {
				require.NotContains(t, seen, event.ID)
			} else {
				require.Equal(t, position{epoch: event.Epoch, seq: event.Seq - 1}, seen[event.ID])
			}
			seen[event.ID] = position{epoch: event.Epoch, seq: event.Seq}
			if event.final() {
				ended++
			}
		}
		require.Len(t, seen, len(ids))
	})
}
