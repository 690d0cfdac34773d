package redtask

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A start's timeout and deadline are seen in ctx, its cause and the record.
func TestTimeoutAndDeadlineOfAStart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ends := make(chan time.Time, 10)
		b := newBlocker()
		registry := NewRegistry()
		registry.RegisterWith("test/long", func() Task {
			return (&script{start: func(ctx context.Context) error {
				end, ok := ctx.Deadline()
				if ok {
					ends <- end
				}
				return b.factory().Start(ctx)
			}}).task()
		}, TaskOptions{Timeout: time.Hour, Retry: &Retry{Attempts: 2, Backoff: Constant(0)}})
		e.runner(t, registry, nil)
		client := e.client(t)
		begun := time.Now()
		id, err := client.StartWith(testContext(t), "test/long", nil, StartOptions{Timeout: 30 * time.Millisecond})
		require.NoError(t, err)
		record := wait(t, client, id)
		require.Equal(t, StateException, record.State)
		require.Equal(t, "redtask: the task ran longer than its timeout of 30ms", record.Error)
		require.Equal(t, 2, record.Attempt, "a timeout is retried")
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrTimedOut)
		require.ErrorIs(t, receive(t, "cause", b.causes), context.DeadlineExceeded)
		require.WithinRange(t, receive(t, "deadline", ends), begun, time.Now().Add(time.Minute))

		id, err = client.StartWith(testContext(t), "test/long", nil, StartOptions{Deadline: time.Now().Add(100 * time.Millisecond)})
		require.NoError(t, err)
		record = wait(t, client, id)
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, "redtask: the task's deadline is past since ")
		require.Equal(t, 1, record.Attempt, "a deadline is for all attempts")
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrDeadline)
		require.False(t, record.Deadline.IsZero())

		id, err = client.StartWith(testContext(t), "test/long", nil, StartOptions{Deadline: time.Now().Add(-time.Hour)})
		require.NoError(t, err)
		record = wait(t, client, id)
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, "deadline is past")
		require.Len(t, b.running, 3, "it has not run")
	})
}

// A task that waited too long is not run, and says so.
func TestExpiry(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		id, err := client.StartWith(testContext(t), "test/block", nil, StartOptions{Expiry: time.Hour})
		require.NoError(t, err)
		late, err := client.StartWith(testContext(t), "test/block", nil, StartOptions{In: time.Hour, Expiry: time.Hour})
		require.NoError(t, err)
		record, err := client.Get(testContext(t), late)
		require.NoError(t, err)
		require.Equal(t, record.CreatedAt.Add(2*time.Hour), record.ExpiresAt, "it counts from when it is due")
		for _, id := range []string{id, late} { // the hours are over
			e.do(t, "HSET", e.key("task:"+id), "expires_at", 1)
		}
		require.NoError(t, client.RescheduleIn(testContext(t), late, 0))
		handled := make(chan error, 10)
		b := newBlocker()
		e.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			o.OnException = []ExceptionHandler{func(_ context.Context, _ *Run, err error) { handled <- err }}
		})
		for _, id := range []string{id, late} {
			record := wait(t, client, id)
			require.Equal(t, StateException, record.State)
			require.Equal(t, ErrExpired.Error(), record.Error)
			require.ErrorIs(t, receive(t, "handler", handled), ErrExpired)
		}
		require.Empty(t, b.running)
		require.NoError(t, client.Restart(testContext(t), id))
		require.Equal(t, id, receive(t, "runs", b.running).ID(), "whoever restarts it wants it to run")
	})
}

// Options that somebody wrote by hand and that are no options end the task where it will be seen.
func TestBadOptionsFromOutside(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		client := e.client(t)
		for name, c := range map[string]struct{ options, want string }{
			"no JSON":       {`{"a`, "options are not what they should be"},
			"list":          {`[]`, "options are not what they should be"},
			"text":          {`x`, "options are not what they should be"},
			"empty key":     {`{"ordered":true}`, "Ordered without a Key"},
			"two faults":    {`{"priority":"urgent","timeout_ms":-1}`, "timeout_ms and deadline_at must not be negative"},
			"bad policy":    {`{"retry":{"attempts":5000}}`, "Retry.Attempts 5000"},
			"odd types":     {`{"key":7}`, "options are not what they should be"},
			"nulls":         {`{"key":null,"once":null,"retry":null}`, ""},
			"unknown names": {`{"color":"red"}`, ""},
			"empty":         {`{}`, ""},
		} {
			id := "id of " + name
			e.do(t, "HSET", e.key("task:"+id), "task", "test/block", "options", c.options)
			e.do(t, "LPUSH", e.key("wait"), id)
			if c.want == "" {
				require.Equal(t, id, receive(t, name, b.running).ID())
				require.NoError(t, client.Stop(testContext(t), id))
				require.Equal(t, StateStopped, wait(t, client, id).State)
				continue
			}
			record := wait(t, client, id)
			require.Equal(t, StateException, record.State, name)
			require.Contains(t, record.Error, c.want, name)
		}
	})
}

// Headers travel: from the start to the run, and on to what that starts.
func TestHeaders(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		seen := make(chan map[string]string, 10)
		registry := NewRegistry()
		registry.Register("test/child", Func(func(ctx context.Context, _ any) error {
			seen <- FromContext(ctx).Headers()
			return nil
		}))
		registry.Register("test/parent", Func(func(ctx context.Context, _ any) error {
			_, err := FromContext(ctx).Client().StartWith(ctx, "test/child", nil, StartOptions{Headers: map[string]string{"own": "1", "over": "child"}})
			return err
		}))
		e.runner(t, registry, func(o *RunnerOptions) {
			o.Headers = func(context.Context) map[string]string { return map[string]string{"trace": "t2"} }
		})
		client, err := NewClient(e.rdb, ClientOptions{Prefix: e.prefix, Headers: func(context.Context) map[string]string {
			return map[string]string{"trace": "t1", "tenant": "a"}
		}})
		require.NoError(t, err)
		id, err := client.StartWith(testContext(t), "test/parent", nil, StartOptions{Headers: map[string]string{"over": "parent"}})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"trace": "t1", "tenant": "a", "over": "parent"}, wait(t, client, id).Headers)
		require.Equal(t, map[string]string{"trace": "t2", "tenant": "a", "own": "1", "over": "child"}, receive(t, "child", seen))
	})
}
