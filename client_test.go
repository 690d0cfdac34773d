package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func TestStartOwnID(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		own := StartOptions{ID: "invoice-7"}
		id, err := client.StartWith(testContext(t), "test/x", 1, own)
		require.NoError(t, err)
		require.Equal(t, "invoice-7", id)
		_, err = client.StartWith(testContext(t), "test/x", 2, own)
		require.ErrorIs(t, err, ErrExists)
		var conflict *ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, StateWait, conflict.State)
		require.Equal(t, "invoice-7", conflict.ID)

		require.NoError(t, client.Stop(testContext(t), id))
		_, err = client.StartWith(testContext(t), "test/x", 3, own)
		require.NoError(t, err, "a final one may be started again")
		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.Equal(t, StateWait, record.State)
		require.JSONEq(t, "3", string(record.Data))
		require.True(t, record.EndedAt.IsZero(), "the old record is gone")
	})
}

func TestStartRefusesBadInput(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		for name, request := range map[string]StartRequest{
			"no name":           {},
			"name without app":  {Task: "sync"},
			"name with space":   {Task: "app/a b"},
			"long name":         {Task: "app/" + strings.Repeat("x", 200)},
			"control character": {Task: "app/x", Options: StartOptions{ID: "a\x01b"}},
			"newline":           {Task: "app/x", Options: StartOptions{ID: "a\n"}},
			"broken UTF-8":      {Task: "app/x", Options: StartOptions{ID: "\xff"}},
			"long ID":           {Task: "app/x", Options: StartOptions{ID: strings.Repeat("x", MaxID+1)}},
			"big data":          {Task: "app/x", Data: strings.Repeat("x", DefaultMaxData)},
			"no JSON":           {Task: "app/x", Data: make(chan int)},
			"broken raw JSON":   {Task: "app/x", Data: json.RawMessage("{")},
		} {
			_, err := client.StartWith(testContext(t), request.Task, request.Data, request.Options)
			require.ErrorIs(t, err, ErrInvalid, name)
			_, err = client.StartMany(testContext(t), []StartRequest{{Task: "app/good"}, request})
			require.ErrorIs(t, err, ErrInvalid, name)
			require.ErrorContains(t, err, "request 1", name)
		}
		require.Zero(t, e.rdb.Exists(t.Context(), e.key("wait")).Val(), "nothing was started")
		_, err := client.Get(testContext(t), "")
		require.ErrorIs(t, err, ErrInvalid)
		for _, queue := range []string{"", "a{b", "a}b", "a b", "a\x00", strings.Repeat("q", MaxQueue+1)} {
			other, ctx := client.ForQueue(queue), testContext(t)
			for call, err := range map[string]error{
				"Start": second(other.Start(ctx, "app/x", nil)), "StartMany": second(other.StartMany(ctx, []StartRequest{{Task: "app/x"}})),
				"Stop": other.Stop(ctx, "x"), "Reload": other.Reload(ctx, "x"), "Restart": other.Restart(ctx, "x"), "Remove": other.Remove(ctx, "x"),
				"Get": second(other.Get(ctx, "x")), "Wait": second(other.Wait(ctx, "x")), "Watch": second(other.Watch(ctx, "x")),
				"WatchQueue": second(other.WatchQueue(ctx)), "List": second(other.List(ctx, ListOptions{State: StateWait})),
				"Counts": second(other.Counts(ctx)), "Runners": second(other.Runners(ctx)),
			} {
				require.ErrorIs(t, err, ErrInvalid, call+queue)
				require.ErrorContains(t, err, "queue", call+queue)
			}
		}
	})
}

func TestStartMany(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		requests := make([]StartRequest, 1000)
		for i := range requests {
			requests[i] = StartRequest{Task: "test/x", Data: i}
		}
		requests[500].Options.ID = "taken"
		_, err := client.StartWith(testContext(t), "test/x", nil, StartOptions{ID: "taken"})
		require.NoError(t, err)
		ids, err := client.StartMany(testContext(t), requests)
		require.ErrorIs(t, err, ErrExists)
		require.Len(t, ids, 1000)
		require.Empty(t, ids[500])
		require.NotEmpty(t, ids[499])
		require.NotEmpty(t, ids[501], "one refused request refuses no other")
		counts, err := client.Counts(testContext(t))
		require.NoError(t, err)
		require.EqualValues(t, 1000, counts.Wait)
		record, err := client.Get(testContext(t), ids[999])
		require.NoError(t, err)
		require.JSONEq(t, "999", string(record.Data))
	})
}

// Concurrent starts share round trips, and one caller's ctx ends only its own wait.
func TestStartConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		var wg sync.WaitGroup
		ids := make([]string, 500)
		for i := range ids {
			wg.Go(func() {
				ctx := testContext(t)
				if i%10 == 0 {
					ctx = cancelled
				}
				ids[i], _ = client.Start(ctx, "test/x", i)
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for i, id := range ids {
			if id != "" {
				require.False(t, seen[id])
				seen[id] = true
				record, err := client.Get(testContext(t), id)
				require.NoError(t, err)
				require.JSONEq(t, fmt.Sprint(i), string(record.Data))
			}
		}
		require.GreaterOrEqual(t, len(seen), 450)
	})
}

func TestGetListCountsRemove(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
		registry.RegisterWith("test/keep", Func(func(context.Context, any) error { return nil }), TaskOptions{Keep: true})
		client := e.client(t)
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Queues = map[string]int{"default": 3}; o.Locals = []Local{} })
		var ended []string
		for range 25 {
			id := start(t, client, "test/end", nil)
			wait(t, client, id)
			ended = append(ended, id)
		}
		kept := start(t, client, "test/keep", nil)
		require.Equal(t, StateEnded, wait(t, client, kept).State)
		for range 3 {
			start(t, client, "test/block", nil)
			receive(t, "run", b.running)
		}
		var waiting []string
		for range 5 {
			waiting = append(waiting, start(t, client, "test/end", nil))
		}

		counts, err := client.Counts(testContext(t))
		require.NoError(t, err)
		require.Equal(t, []int64{5, 3, 25, 1, 0}, []int64{counts.Wait, counts.Running, counts.Ended, counts.Kept, counts.Stopped})
		require.Equal(t, waiting, listAll(t, client, ListOptions{State: StateWait, Limit: 2}))
		require.Len(t, listAll(t, client, ListOptions{State: StateRunning, Limit: 2}), 3)
		got := listAll(t, client, ListOptions{State: StateEnded, Limit: 10})
		require.Len(t, got, 25)
		require.ElementsMatch(t, ended, got)
		require.Equal(t, []string{kept}, listAll(t, client, ListOptions{Kept: true}))
		require.Empty(t, listAll(t, client, ListOptions{State: StateScheduled}))
		_, err = client.List(testContext(t), ListOptions{State: "NONE"})
		require.ErrorIs(t, err, ErrInvalid)
		_, err = client.List(testContext(t), ListOptions{State: StateEnded, Limit: 5000})
		require.ErrorIs(t, err, ErrInvalid)
		_, err = client.List(testContext(t), ListOptions{State: StateEnded, Cursor: "x"})
		require.ErrorContains(t, err, "no cursor")

		runners, err := client.Runners(testContext(t))
		require.NoError(t, err)
		require.Len(t, runners, 1)
		require.Equal(t, runner.ID(), runners[0].ID)
		require.EqualValues(t, 3, runners[0].Running)
		require.Contains(t, runners[0].Tasks, "test/block")
		require.WithinDuration(t, time.Now().Add(15*time.Second), runners[0].LeaseEnd, 10*time.Second)
		queues, err := client.Queues(testContext(t))
		require.NoError(t, err)
		require.Equal(t, []string{"default"}, queues)

		require.NoError(t, client.Remove(testContext(t), ended[0]))
		_, err = client.Get(testContext(t), ended[0])
		require.ErrorIs(t, err, ErrNotFound)
		require.NoError(t, client.Remove(testContext(t), waiting[0]))
		running := listAll(t, client, ListOptions{State: StateRunning})
		require.ErrorIs(t, client.Remove(testContext(t), running[0]), ErrRunning)
	})
}

func listAll(t *testing.T, client *Client, options ListOptions) []string {
	t.Helper()
	var ids []string
	for {
		page, err := client.List(testContext(t), options)
		require.NoError(t, err)
		for _, task := range page.Tasks {
			ids = append(ids, task.ID)
		}
		if page.Next == "" {
			return ids
		}
		options.Cursor = page.Next
	}
}

func TestQueuesAreApart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ran := make(chan string, 10)
		registry := NewRegistry()
		registry.Register("test/where", Func(func(ctx context.Context, _ any) error { ran <- FromContext(ctx).Queue(); return nil }))
		e.runner(t, registry, func(o *RunnerOptions) { o.Queues = map[string]int{"a": 1, "b": 2} })
		client := e.client(t)
		for _, queue := range []string{"a", "b"} {
			id, err := client.ForQueue(queue).Start(testContext(t), "test/where", nil)
			require.NoError(t, err)
			require.Equal(t, queue, receive(t, "run", ran))
			require.Equal(t, queue, wait(t, client.ForQueue(queue), id).Queue)
			_, err = client.Get(testContext(t), id)
			require.ErrorIs(t, err, ErrNotFound)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := e.client(t).Wait(ctx, "nobody")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestWrongTypes(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		ctx := testContext(t)
		e.rdb.Set(ctx, e.key("task:string"), "x", 0)
		_, err := client.Get(ctx, "string")
		require.ErrorIs(t, err, ErrWrongType)
		require.ErrorIs(t, client.Stop(ctx, "string"), ErrWrongType)
		require.ErrorIs(t, client.Reload(ctx, "string"), ErrWrongType)
		require.ErrorIs(t, client.Restart(ctx, "string"), ErrWrongType)
		_, err = client.StartWith(ctx, "test/x", nil, StartOptions{ID: "string"})
		require.ErrorIs(t, err, ErrWrongType)
		require.NoError(t, client.Remove(ctx, "string"), "removing is how to get rid of it")
		require.Zero(t, e.rdb.Exists(ctx, e.key("task:string")).Val())

		e.rdb.Set(ctx, e.key("wait"), "x", 0)
		_, err = client.Start(ctx, "test/x", nil)
		require.ErrorIs(t, err, ErrWrongType)
		counts, err := client.Counts(ctx)
		require.NoError(t, err)
		require.EqualValues(t, -1, counts.Wait)
	})
}

// A key of the wrong type is reported, and used again once it is mended: nothing in line is lost meanwhile.
func TestRunnerSurvivesWrongTypes(t *testing.T) {
	for _, key := range []string{"wait", "epoch", "counters", "scheduled"} {
		t.Run(key, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				registry := NewRegistry()
				registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
				client := e.client(t)
				var id string
				if key != "wait" {
					id = start(t, client, "test/end", nil)
					require.NoError(t, e.rdb.LPush(t.Context(), e.key("wait"), "missing").Err())
				}
				require.NoError(t, e.rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: e.key(key), Values: []string{"a", "b"}}).Err())
				e.runner(t, registry, nil)
				if key != "scheduled" { // nothing needs that one here
					eventually(t, "a log line that names the key", func() bool { return e.log.has(e.key(key)) })
				}
				require.NoError(t, e.rdb.Del(t.Context(), e.key(key)).Err())
				if id != "" {
					require.Equal(t, StateEnded, wait(t, client, id).State)
				}
				require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/end", nil)).State)
			})
		})
	}
}

// A record is JSON with the names that the fields have in Redis, whatever somebody wrote there.
func TestRecordAsJSON(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		hash := map[string]any{
			"task": "app/x", "data": "{not \xff JSON", "state": "ERROR", "epoch": 7, "attempt": 2, "ended_at": 1790000000000, "error": "no", "keep": "1",
		}
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:42"), hash).Err())
		record, err := client.Get(testContext(t), "42")
		require.NoError(t, err)
		record.EndedAt = record.EndedAt.UTC()
		encoded, err := json.Marshal(record)
		require.NoError(t, err)
		require.JSONEq(t, `{"id":"42","queue":"default","task":"app/x","data":"{not \ufffd JSON","state":"ERROR","epoch":7,"attempt":2,
			"ended_at":"2026-09-21T14:13:20Z","error":"no","keep":true}`, string(encoded))
		var again Record
		require.NoError(t, json.Unmarshal(encoded, &again))
		require.Equal(t, *record, again)
	})
}

// While Redis hangs, starts whose callers have gone do not pile up, and are not started long after.
func TestStartsThatWereGivenUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	client := e.client(t)
	start(t, client, "test/x", nil)
	eventually(t, "nothing is under way", func() bool {
		client.starter.mu.Lock()
		defer client.starter.mu.Unlock()
		return client.starter.calls == 0
	})
	server.Freeze(t)
	first := make(chan error, maxFlights)
	ctx, cancel := context.WithCancel(testContext(t))
	for i := range maxFlights { // one after the other: two at once may share a call
		go func() { _, err := client.Start(ctx, "test/x", nil); first <- err }()
		eventually(t, "it is under way", func() bool {
			client.starter.mu.Lock()
			defer client.starter.mu.Unlock()
			return client.starter.calls == i+1 && len(client.starter.waiting) == 0
		})
	}
	over, end := context.WithTimeout(ctx, 20*time.Millisecond)
	defer end()
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			_, err := client.Start(over, "test/x", nil)
			if err == nil || !strings.Contains(err.Error(), "not started: redis did not answer") && !strings.Contains(err.Error(), "not started: context deadline") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Empty(t, client.starter.waiting)
	cancel()
	for range maxFlights {
		require.ErrorContains(t, receive(t, "the first", first), "it may be started all the same")
	}
	server.Thaw(t)
	eventually(t, "what was sent is in line", func() bool { return e.rdb.LLen(t.Context(), e.key("wait")).Val() == 1+maxFlights })
}

// Whoever gave a start up still reads its task: nothing is written to that when the answer comes.
func TestLateAnswerToAStart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := newEnv(t, server.Addr, nil).client(t)
	request := StartRequest{Task: "test/x", Options: StartOptions{Once: Unique("k", 0).OrExisting()}}
	_, err := client.StartWith(testContext(t), request.Task, request.Data, request.Options)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	task, err := client.newTask(ctx, &request)
	require.NoError(t, err)
	id := task.ID
	underWay := func(n int) func() bool {
		return func() bool {
			client.starter.mu.Lock()
			defer client.starter.mu.Unlock()
			return client.starter.calls == n
		}
	}
	eventually(t, "the first is through", underWay(0))
	server.Freeze(t)
	done := make(chan error, 1)
	go func() { _, err := client.starter.start(ctx, task); done <- err }()
	eventually(t, "it is under way", underWay(1))
	cancel()
	require.ErrorContains(t, receive(t, "the start", done), "it may be started all the same")
	server.Thaw(t)
	eventually(t, "the answer has come", underWay(0))
	require.Equal(t, id, task.ID, "not that of the task that stands for it")
}

func second[T any](_ T, err error) error { return err }

// With Redis away each call says what it was about.
func TestErrorsNameTheTask(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	client, err := NewClient(rdb, ClientOptions{})
	require.NoError(t, err)
	ctx := testContext(t)
	over, end := context.WithCancel(ctx)
	end()
	for want, call := range map[string]func() error{
		"redtask: start task app/x: not started: read redtask:protocol: dial": func() error {
			_, err := client.Start(ctx, "app/x", nil)
			return err
		},
		"redtask: start task app/x: not started: context canceled": func() error {
			_, err := client.Start(over, "app/x", nil)
			return err
		},
		"redtask: start 2 tasks: none is started: read redtask:protocol: dial": func() error {
			_, err := client.StartMany(ctx, []StartRequest{{Task: "app/x"}, {Task: "app/y"}})
			return err
		},
		`redtask: task "x y": stop in queue "default": dial`:         func() error { return client.Stop(ctx, "x y") },
		`redtask: task "7": reload in queue "default": dial`:         func() error { return client.Reload(ctx, "7") },
		`redtask: task "7": restart in queue "default": dial`:        func() error { return client.Restart(ctx, "7") },
		`redtask: task "7": remove in queue "default": dial`:         func() error { return client.Remove(ctx, "7") },
		`redtask: read task "7": dial`:                               func() error { _, err := client.Get(ctx, "7"); return err },
		`redtask: subscribe to task "7" in queue "default": dial`:    func() error { _, err := client.Wait(ctx, "7"); return err },
		`redtask: subscribe to all tasks in queue "default": dial`:   func() error { _, err := client.WatchQueue(ctx); return err },
		`redtask: invalid input: encode new data for task "7": json`: func() error { return client.ReloadWith(ctx, "7", func() {}) },
		"redtask: invalid input: encode data for task app/x: json": func() error {
			_, err := client.Start(ctx, "app/x", func() {})
			return err
		},
	} {
		require.ErrorContains(t, call(), want)
	}
}
