package redtasktest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
)

func TestRequireStartedInEveryState(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		h := on(t, url, registryOf(map[string]redtask.Factory{
			"test/block": redtask.Func(block),
			"test/end":   redtask.Func(func(context.Context, any) error { return nil }),
			"test/error": redtask.Func(func(context.Context, any) error { return redtask.Failf("no") }),
			"test/panic": redtask.Func(func(context.Context, any) error { panic("no") }),
		}), redtask.RunnerOptions{Locals: []redtask.Local{{Name: "redtask/local", New: redtask.Func(func(ctx context.Context, _ any) error {
			<-ctx.Done()
			return ctx.Err()
		})}}})
		running := start(t, h.Client, "test/block", 1)
		h.Watch(running).Next("tick")
		stopped := start(t, h.Client, "test/block", 2)
		h.Watch(stopped).Next("tick")
		require.NoError(t, h.Client.Stop(t.Context(), stopped))
		h.Collect(stopped)
		kept, err := h.Client.StartWith(t.Context(), "test/end", 7, redtask.StartOptions{Keep: true, ID: "odd {}:task: ID"})
		require.NoError(t, err)
		require.True(t, h.Collect(kept).Record.Keep)
		h.Run("test/end", 3)
		h.Run("test/error", 4)
		h.Run("test/panic", 5)
		start(t, h.Client.ForQueue("unserved"), "test/wait", 6)
		scheduled := map[string]any{"task": "test/late", "data": "8", "state": "SCHEDULED"}
		require.NoError(t, h.Redis.HSet(t.Context(), h.Prefix+":{default}:task:late", scheduled).Err())
		require.NoError(t, h.Redis.Set(t.Context(), h.Prefix+":{default}:task:broken", "not a hash", 0).Err())

		for i, want := range []struct {
			task  string
			state redtask.State
		}{
			{"test/block", redtask.StateRunning},
			{"test/block", redtask.StateStopped},
			{"test/end", redtask.StateEnded},
			{"test/error", redtask.StateError},
			{"test/panic", redtask.StateException},
			{"test/wait", redtask.StateWait},
			{"test/end", redtask.StateEnded},
			{"test/late", redtask.StateScheduled},
		} {
			record := h.RequireStarted(want.task, i+1)
			require.Equal(t, want.state, record.State)
			require.Equal(t, fmt.Sprint(i+1), string(record.Data))
		}
		require.Equal(t, "unserved", h.RequireStarted("test/wait", 6).Queue)
		require.Equal(t, kept, h.RequireStarted("test/end", 7).ID)
		require.Equal(t, []string{running, stopped}, []string{h.Started("test/block")[0].ID, h.Started("test/block")[1].ID})
		h.RequireNotStarted("test/other")
		h.RequireNotStarted("redtask/local")
		require.NotEmpty(t, h.Runner.ID())
	})
}

// Tasks that move from state to state while one looks are seen all the same.
func TestStartedSeesTasksThatMove(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		h := on(t, url, registryOf(map[string]redtask.Factory{"test/end": redtask.Func(func(context.Context, any) error { return nil })}),
			redtask.RunnerOptions{Queues: map[string]int{"default": 5}})
		id := start(t, h.Client, "test/end", "it")
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = h.Client.Restart(t.Context(), id) // refused while it runs, which is as good
				}
			}
		})
		defer wg.Wait()
		defer close(done)
		for range 100 {
			require.Equal(t, id, h.RequireStarted("test/end", "it").ID)
		}
	})
}

// Many tasks start in one millisecond: their order is told all the same, whether they wait or have run.
func TestStartedIsInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		requests := make([]redtask.StartRequest, 100)
		for i := range requests {
			requests[i] = redtask.StartRequest{Task: "test/end", Data: i}
		}
		for name, h := range map[string]*Harness{
			"waiting": idle(t, url),
			"run": on(t, url, registryOf(map[string]redtask.Factory{"test/end": redtask.Func(func(context.Context, any) error { return nil })}),
				redtask.RunnerOptions{}),
		} {
			ids, err := h.Client.StartMany(t.Context(), requests)
			require.NoError(t, err)
			if h.Runner != nil {
				for _, id := range ids {
					h.Collect(id)
				}
			}
			var started []string
			for _, record := range h.Started("test/end") {
				started = append(started, record.ID)
			}
			require.Equal(t, ids, started, name)
		}
	})
}

type mail struct {
	To   string         `json:"to"`
	Meta map[string]any `json:"meta,omitempty"`
}

func TestRequireStartedFails(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		text := fails(t, func(t testing.TB) {
			h := idle(t, url)
			start(t, h.Client, "app/other", "x")
			start(t, h.Client.ForQueue("post"), "app/mail", mail{To: "bob", Meta: map[string]any{"cc": []string{"eve"}, "n": 1}})
			h.RequireStarted("app/mail", mail{To: "ann", Meta: map[string]any{"n": 1}})
		}, `no task app/mail was started with`+"\n    "+`{"to":"ann","meta":{"n":1}}`, "started, 2 in all:\n    app/mail ",
			`in queue "post", WAIT, with {"to":"bob","meta":{"cc":["eve"],"n":1}}`,
			"\n        + .meta.cc[0] = \"eve\"\n        - .to = \"ann\"\n        + .to = \"bob\"\n    app/other ")
		require.NotContains(t, text, ".meta.n", "what is equal is not listed")

		fails(t, func(t testing.TB) { idle(t, url).RequireStarted("app/mail", nil) }, "no task app/mail was started with\n    null\nnothing was started")
		fails(t, func(t testing.TB) { idle(t, url).RequireStarted("app/mail", func() {}) }, "encode the data of task app/mail")
		fails(t, func(t testing.TB) {
			h := idle(t, url)
			for i := range 25 {
				start(t, h.Client, "app/mail", i)
			}
			h.RequireNotStarted("app/mail")
		}, "task app/mail was started\nstarted, 25 in all:", "WAIT, with 0\n", "and 5 more")
	})
}

func TestDataIsComparedAsJSON(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b  string
		equal bool
	}{
		{`{"a":1,"b":[true,null]}`, ` {"b":[true, null], "a":1.0}`, true},
		{`null`, `null`, true},
		{`null`, `{}`, false},
		{`{}`, `[]`, false},
		{`[]`, `[null]`, false},
		{`[1,2]`, `[2,1]`, false},
		{`{"a":{}}`, `{}`, false},
		{`{"a":null}`, `{}`, false},
		{`1`, `"1"`, false},
		{`1e2`, `100`, true},
		{`0.5`, `5e-1`, true},
		{`9007199254740993`, `9007199254740992`, false},
		{`1e400`, `1e401`, false},
		{`{"a.b":1}`, `{"a":{"b":1}}`, false},
		{`{"":{"a":1}}`, `{"a":1}`, false},
		{`{"[0]":1}`, `[1]`, false},
		{`"\u00e4"`, `"ä"`, true},
		{`not json`, `not json`, true},
		{`not json`, `{"not JSON":"not json"}`, false},
		{`1 2`, `1`, false},
	} {
		if test.equal {
			require.Equal(t, leaves([]byte(test.a)), leaves([]byte(test.b)))
			require.Empty(t, difference(leaves([]byte(test.a)), leaves([]byte(test.b))))
			continue
		}
		require.NotEqual(t, leaves([]byte(test.a)), leaves([]byte(test.b)))
		require.NotEmpty(t, difference(leaves([]byte(test.a)), leaves([]byte(test.b))))
	}
}

func TestLongDifferencesAreCut(t *testing.T) {
	t.Parallel()
	want := map[string]string{}
	for i := range 50 {
		want[fmt.Sprintf(".[%02d]", i)] = "1"
	}
	text := difference(want, map[string]string{".[00]": "1"})
	require.Contains(t, text, "- .[20] = 1\n        and 29 more")
	require.NotContains(t, text, ".[21]")
}

func TestStartedNeedsRedis(t *testing.T) {
	t.Parallel()
	fails(t, func(t testing.TB) {
		h := NewWith(t, nil, Options{RedisURL: Miniredis, Idle: true, Timeout: 5 * time.Second})
		h.Miniredis.SetError("ERR out of order")
		h.Started("app/mail")
	}, "scan the keys of prefix redtasktest-", "out of order")
}
