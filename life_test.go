package redtask

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

type greeting struct {
	Text string `json:"text"`
}

func TestEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/out", FuncOut(func(_ context.Context, in greeting) (string, error) { return "hello " + in.Text, nil }))
		registry.Register("test/fail", Func(func(context.Context, greeting) error { return fmt.Errorf("outer: %w", Failf("no %s", "milk")) }))
		registry.Register("test/other", Func(func(context.Context, greeting) error { return errors.New("surprise") }))
		registry.Register("test/panic", Func(func(context.Context, greeting) error { panic("boom") }))
		e.runner(t, registry, nil)
		client := e.client(t)

		ended := wait(t, client, start(t, client, "test/out", greeting{"world"}))
		require.Equal(t, StateEnded, ended.State)
		require.JSONEq(t, `"hello world"`, string(ended.Output))
		require.Equal(t, 1, ended.Attempt)
		require.False(t, ended.EndedAt.Before(ended.StartedAt))
		require.False(t, ended.CreatedAt.IsZero())

		failed := wait(t, client, start(t, client, "test/fail", nil))
		require.Equal(t, StateError, failed.State)
		require.Equal(t, "outer: no milk", failed.Error)

		other := wait(t, client, start(t, client, "test/other", nil))
		require.Equal(t, StateException, other.State)
		require.Equal(t, "surprise", other.Error)
		require.Empty(t, other.Stack)

		panicked := wait(t, client, start(t, client, "test/panic", nil))
		require.Equal(t, StateException, panicked.State)
		require.Equal(t, "panic: boom", panicked.Error)
		require.Contains(t, panicked.Stack, "life_test.go")
	})
}

// A panic is an EXCEPTION with its stack, whatever it was made with and whatever the task was told.
func TestPanicWithAnError(t *testing.T) {
	for name, value := range map[string]func(ctx context.Context) error{
		"Fail":      func(context.Context) error { return Failf("no") },
		"ErrDone":   func(context.Context) error { return ErrDone },
		"ctx.Err()": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				running := make(chan struct{}, 1)
				registry := NewRegistry()
				registry.Register("test/panic", Func(func(ctx context.Context, _ any) error {
					running <- struct{}{}
					<-ctx.Done()
					panic(value(ctx))
				}))
				e.runner(t, registry, nil)
				client := e.client(t)
				id := start(t, client, "test/panic", nil)
				receive(t, "runs", running)
				require.NoError(t, client.Stop(t.Context(), id))
				record := wait(t, client, id)
				require.Equal(t, StateException, record.State)
				require.Contains(t, record.Error, "panic: ")
				require.Contains(t, record.Stack, "life_test.go")
			})
		})
	}
}

func TestUnknownName(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/greet", Func(func(context.Context, any) error { return nil }))
		e.runner(t, registry, nil)
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/great", nil))
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, `did you mean "test/greet"?`)
		record = wait(t, client, start(t, client, "other/thing", nil))
		require.Equal(t, `no runner of queue "default" knows a task named "other/thing"; they know test/greet`, record.Error)
		id, err := client.StartWith(testContext(t), "other/thing", nil, StartOptions{Retry: &Retry{Attempts: 3, Backoff: Constant(time.Hour)}})
		require.NoError(t, err)
		require.Equal(t, 1, wait(t, client, id).Attempt, "to try it again does not help")
	})
}

func TestRunnerWithoutTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.runner(t, NewRegistry(), nil)
		require.True(t, e.log.has("this runner knows no tasks"))
		client := e.client(t)
		record := wait(t, client, start(t, client, "app/x", nil))
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, `knows a task named "app/x", nor any other: register tasks before`)
	})
}

// During a deploy another runner has the name: the task goes back until that one takes it.
func TestUnknownNameThatAnotherRunnerHas(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		old := NewRegistry()
		e.runner(t, old, nil)
		client := e.client(t)
		newer := NewRegistry()
		newer.Register("test/new", Func(func(context.Context, any) error { return nil }))
		e.runner(t, newer, nil)
		eventually(t, "both registered", func() bool {
			runners, err := client.Runners(testContext(t))
			return err == nil && len(runners) == 2
		})
		for range 10 {
			record := wait(t, client, start(t, client, "test/new", nil))
			require.Equal(t, StateEnded, record.State)
			require.Equal(t, 1, record.Attempt)
		}
	})
}

// A task that is given back for its name and has a pending stop is over: its unique key is free.
func TestStopOfATaskThatIsGivenBack(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var told atomic.Bool
		ctx := testContext(t)
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			if slices.Contains(cmd.Args(), any("SCHEDULED")) && told.CompareAndSwap(false, true) {
				runner := e.rdb.HGet(ctx, e.key("task:id"), "runner").Val()
				e.rdb.HSet(ctx, e.key("control:"+runner), "id", "stop")
			}
			return next()
		})
		e.do(t, "HSET", e.key("runner:new"), "names", "test/new", "batch", 1)
		e.do(t, "ZADD", e.key("runners"), time.Now().Add(time.Hour).UnixMilli(), "new")
		own.runner(t, NewRegistry(), func(o *RunnerOptions) { o.Locals = []Local{} })
		client := e.client(t)
		_, err := client.StartWith(ctx, "test/new", nil, StartOptions{ID: "id", Once: Unique("k", 0)})
		require.NoError(t, err)
		require.Equal(t, StateStopped, wait(t, client, "id").State)
		require.True(t, told.Load())
		require.Zero(t, e.rdb.Exists(ctx, e.key("once:k")).Val())
	})
}

// A clock of Redis that jumps makes all leases look past: the other runner is there all the same.
func TestUnknownNameAfterAClockJump(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		old := e.runner(t, NewRegistry(), func(o *RunnerOptions) { o.Locals = []Local{} })
		newer := NewRegistry()
		newer.Register("test/new", Func(func(context.Context, any) error { return nil }))
		client := e.client(t)
		eventually(t, "registered", func() bool { return e.rdb.ZCard(t.Context(), e.key("runners")).Val() == 1 })
		id := start(t, client, "test/new", nil)
		_, err := old.Client().Wait(testContext(t), id)
		require.NoError(t, err)
		require.NoError(t, e.rdb.ZAdd(t.Context(), e.key("runners"), redis.Z{Score: 1, Member: "other"}).Err())
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("runner:other"), "names", "test/new", "batch", 0).Err())
		require.NoError(t, client.Restart(t.Context(), id))
		eventually(t, "it waits for the other one", func() bool {
			return e.rdb.HGet(t.Context(), e.key("task:"+id), "state").Val() == "SCHEDULED"
		})
		e.runner(t, newer, func(o *RunnerOptions) { o.Locals = []Local{} })
		require.Equal(t, StateEnded, wait(t, client, id).State)
	})
}

// What did not come through a client is checked when it runs.
func TestBadIDsAndBigDataFromOutside(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/ok", Func(func(context.Context, any) error { return nil }))
		e.runner(t, registry, func(o *RunnerOptions) { o.MaxData = 100 })
		for id, message := range map[string]string{
			"":                       "the task ID is empty",
			"bell\a":                 "control characters",
			strings.Repeat("x", 300): "at most 256",
			"big":                    "at most 100 are allowed",
		} {
			data := `"x"`
			if id == "big" {
				data = `"` + strings.Repeat("x", 100) + `"`
			}
			require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:"+id), "task", "test/ok", "data", data).Err())
			require.NoError(t, e.rdb.LPush(t.Context(), e.key("wait"), id).Err())
			var hash map[string]string
			eventually(t, "it ends", func() bool {
				hash = e.rdb.HGetAll(t.Context(), e.key("task:"+id)).Val()
				return State(hash["state"]).Final()
			})
			require.Equal(t, "EXCEPTION", hash["state"])
			require.Contains(t, hash["error"], message)
		}
	})
}

func TestMaxData(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, err := NewClient(e.rdb, ClientOptions{Prefix: e.prefix, MaxData: 10})
		require.NoError(t, err)
		_, err = client.Start(t.Context(), "test/ok", strings.Repeat("x", 9))
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "data for task test/ok has 11 bytes, at most 10 are allowed")
		_, err = client.Start(t.Context(), "test/ok", strings.Repeat("x", 8))
		require.NoError(t, err)
		_, err = NewClient(e.rdb, ClientOptions{MaxData: -1})
		require.ErrorIs(t, err, ErrInvalid)
	})
}
