package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
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
		registry.Register("test/endless", newBlocker().factory)
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

		id, err = client.StartWith(testContext(t), "test/endless", nil, StartOptions{Deadline: time.Now().Add(100 * time.Millisecond)})
		require.NoError(t, err)
		require.Contains(t, wait(t, client, id).Error, ErrDeadline.Error(), "also where there is no timeout")
	})
}

// Of a timeout and a deadline that which is over first is told; a deadline is by the clock of Redis, and all attempts have the same.
func TestDeadlineBesideATimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			timeout, deadline, after time.Duration
			cause                    error
		}{
			"timeout":               {time.Minute, 0, time.Minute, ErrTimedOut},
			"deadline":              {0, time.Minute, time.Minute, ErrDeadline},
			"timeout before":        {time.Minute, 2 * time.Minute, time.Minute, ErrTimedOut},
			"deadline before":       {2 * time.Minute, time.Minute, time.Minute, ErrDeadline},
			"deadline that is past": {time.Minute, -time.Minute, 0, ErrDeadline},
		} {
			e := loneEngine(RunnerOptions{StuckAfter: time.Hour})
			e.clockOffset.Store(-24 * time.Hour.Milliseconds())
			options := recordOptions{TimeoutMS: c.timeout.Milliseconds()}
			if c.deadline != 0 {
				options.DeadlineAt = e.now() + c.deadline.Milliseconds()
			}
			encoded, err := json.Marshal(options)
			require.NoError(t, err)
			r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: string(encoded)}})
			_, known := r.ctx.Deadline()
			require.False(t, known, "it has not begun")
			begun := time.Now()
			stop := r.limitTime()
			end, known := r.ctx.Deadline()
			require.True(t, known, name)
			require.Equal(t, c.after, end.Sub(begun), name)
			<-r.ctx.Done()
			require.Equal(t, c.after, time.Since(begun), name)
			require.ErrorIs(t, context.Cause(r.ctx), c.cause, name)
			stop()
			r.retry = (&Retry{Attempts: 5, Backoff: Constant(0)}).withDefaults()
			r.supervise = (&Supervise{Backoff: Constant(0)}).withDefaults()
			e.clockOffset.Add(-time.Hour.Milliseconds()) // a deadline that was told stays so
			close(r.returned)
			leave := e.outcome(r, r.close(), r.ctx.Err())
			want := map[error]string{ErrTimedOut: "SCHEDULED", ErrDeadline: "EXCEPTION"}[c.cause]
			require.Equal(t, want, leave.State, name)
		}
	})
}

// Whether a deadline is past before a run begins is for the clock of Redis to say.
func TestDeadlineIsByTheClockOfRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, offset := range []time.Duration{-time.Hour, time.Hour} {
			e := loneEngine(RunnerOptions{MaxData: 1 << 20})
			e.clockOffset.Store(offset.Milliseconds())
			e.entries = map[string]*entry{"test/x": {factory: newBlocker().factory}}
			for after, refused := range map[int64]bool{-1: true, 0: true, 1: false} {
				options := fmt.Sprintf(`{"deadline_at":%d}`, e.now()+after)
				r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: options}})
				require.Equal(t, refused, errors.Is(r.prepare(), ErrDeadline), "%s %d", offset, after)
			}
		}
	})
}

// A client that gives up when ctx says that the time is over did as it was told: the record tells of the timeout alone.
func TestDeadlineExceededIsTheTimeout(t *testing.T) {
	t.Parallel()
	e := loneEngine(RunnerOptions{StuckAfter: time.Hour})
	for cause, want := range map[error]string{
		ErrTimedOut: ErrTimedOut.Error() + " of 1m0s", ErrDeadline: ErrDeadline.Error() + " since 1970-01-01T00:00:00Z",
	} {
		r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: `{"timeout_ms":60000,"deadline_at":1}`}})
		r.told = cause
		returned := fmt.Errorf("GET: %w", context.DeadlineExceeded)
		require.Equal(t, StateException, r.Outcome(returned))
		leave := e.outcome(r, cause, returned)
		require.Equal(t, []string{"error", want}, leave.Fields)
	}
}

// An error that tells of the time that is over tells of it once, also that of a run whose timer was first to see that its deadline is past.
func TestOvertimeIsSaidOnce(t *testing.T) {
	t.Parallel()
	e := loneEngine(RunnerOptions{StuckAfter: time.Hour, MaxData: 1 << 20})
	e.entries = map[string]*entry{"test/x": {factory: newBlocker().factory}}
	r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: `{"timeout_ms":60000,"deadline_at":1}`}})
	late := r.prepare()
	for _, c := range []struct {
		told, err error
		want      string
	}{
		{nil, late, ErrDeadline.Error() + " since 1970-01-01T00:00:00Z"},
		{ErrDeadline, late, ErrDeadline.Error() + " since 1970-01-01T00:00:00Z"},
		{ErrTimedOut, NoRetry(fmt.Errorf("GET: %w", ErrTimedOut)), "GET: " + ErrTimedOut.Error()},
		{ErrTimedOut, NoRetry(errSurprise), "surprise; " + ErrTimedOut.Error() + " of 1m0s"},
	} {
		r.told = c.told
		require.Equal(t, []string{"error", c.want}, e.outcome(r, c.told, c.err).Fields)
	}
}

// Once a run has returned nobody waits for its time to be over.
func TestTimerGoesWithItsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := loneEngine(RunnerOptions{StuckAfter: time.Hour})
		r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: `{"timeout_ms":60000}`}})
		r.limitTime()()
		time.Sleep(time.Hour) // of the bubble
		require.NoError(t, r.ctx.Err())
	})
}

// A policy, a timeout and the like that a start gives come to the run as they were given.
func TestOptionsOfAStartTravel(t *testing.T) {
	t.Parallel()
	deadline := time.UnixMilli(1_900_000_000_123)
	for name, o := range map[string]StartOptions{
		"retry":           {Retry: &Retry{Attempts: 7, Failures: true, Backoff: Exponential(2 * time.Second), MaxDelay: 3 * time.Minute}},
		"retry, delays":   {Retry: &Retry{Attempts: 2, Backoff: Delays(time.Second, 2*time.Second)}},
		"zero retry":      {Retry: &Retry{}},
		"supervise":       {Supervise: &Supervise{RestartOnFailure, Delays(time.Second, 0), 4 * time.Second, 5 * time.Second, 6, 7 * time.Second}},
		"first":           {Supervise: &Supervise{Backoff: Exponential(2 * time.Second)}},
		"zero supervise":  {Supervise: &Supervise{}},
		"timeout":         {Timeout: 1500 * time.Millisecond},
		"deadline":        {Deadline: deadline},
		"headers":         {Headers: map[string]string{"a": "1"}},
		"key":             {Key: "k"},
		"all but a retry": {Timeout: time.Second, Deadline: deadline, Supervise: &Supervise{}, Headers: map[string]string{"a": "1"}, Key: "k"},
	} {
		require.False(t, o.isPlain(), name)
		task := store.NewTask{Task: "test/x"}
		require.NoError(t, o.encode(&task), name)
		e := loneEngine(RunnerOptions{})
		registered := TaskOptions{Timeout: time.Hour, Retry: (&Retry{Attempts: 99}).withDefaults()}
		if o.Retry != nil {
			registered.Retry, registered.Supervise = nil, (&Supervise{MaxRestarts: 99}).withDefaults()
		}
		e.entries = map[string]*entry{"test/x": newEntry("test/x", nil, registered)}
		r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: task.Options}})
		require.NoError(t, r.refused, name)
		switch {
		case o.Retry != nil:
			require.Equal(t, o.Retry.withDefaults(), r.retry, name)
			require.Nil(t, r.supervise, "it has the registration's place")
		case o.Supervise != nil:
			require.Equal(t, o.Supervise.withDefaults(), r.supervise, name)
			require.Nil(t, r.retry, "it has the registration's place")
		default:
			require.Equal(t, registered.Retry, r.retry, name)
		}
		timeout := registered.Timeout
		if o.Timeout != 0 {
			timeout = o.Timeout
		}
		require.Equal(t, timeout, r.timeout, name)
		require.Equal(t, unixMilli(o.Deadline), r.deadline, name)
		require.Equal(t, o.Headers, r.headers, name)
		require.Equal(t, o.Key, r.key, name)
	}
	for name, o := range map[string]StartOptions{"expiry": {Expiry: time.Second}, "in": {In: time.Second}, "at": {At: deadline}} {
		require.False(t, o.isPlain(), name)
	}
	require.EqualValues(t, 1, unixMilli(time.UnixMilli(0)), "a time before 1970 is one that is past, not none")
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
		registry := NewRegistry()
		registry.RegisterWith("test/block", b.factory, TaskOptions{Retry: &Retry{Attempts: 3, Backoff: Constant(time.Hour)}})
		e.runner(t, registry, func(o *RunnerOptions) {
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
			"both":          {`{"retry":{"attempts":3},"supervise":{}}`, "both retry and supervise"},
			"more behind":   {`{"key":"k"} junk`, "options are not what they should be"},
			"list":          {`[]`, `field "" cannot be of the JSON type array`},
			"text":          {`x`, "options are not what they should be"},
			"empty key":     {`{"ordered":true}`, "Ordered without a Key"},
			"two faults":    {`{"priority":"urgent","timeout_ms":-1}`, "timeout_ms and deadline_at must not be negative"},
			"bad policy":    {`{"retry":{"attempts":5000}}`, "Retry.Attempts 5000"},
			"bad restarts":  {`{"supervise":{"max_restarts":5000}}`, "Supervise.MaxRestarts 5000"},
			"bad deadline":  {`{"deadline_at":-1}`, "deadline_at must not be negative"},
			"odd types":     {`{"key":7}`, `field "key" cannot be of the JSON type number`},
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

// A deadline and a timeout that are further away than a Duration can tell end nothing.
func TestFarDeadlines(t *testing.T) {
	require.Positive(t, ms(math.MaxInt64))
	require.Negative(t, ms(math.MinInt64))
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/far", Func(func(ctx context.Context, _ any) error {
			if at, ok := ctx.Deadline(); ok && at.Before(time.Now()) {
				return fmt.Errorf("the deadline of ctx is %s", at)
			}
			return ctx.Err()
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		for _, year := range []int{2200, 2290, 2400, 9999} {
			for _, o := range []StartOptions{{Deadline: time.Date(year, 12, 31, 0, 0, 0, 0, time.UTC)}, {Timeout: math.MaxInt64}} {
				id, err := client.StartWith(testContext(t), "test/far", nil, o)
				require.NoError(t, err)
				record := wait(t, client, id)
				require.Equal(t, StateEnded, record.State, record.Error)
			}
		}
	})
}

// What a task that ran out of time says of its next run holds, also around the error of its ctx.
func TestTimedOutTaskDecides(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		runs := make(chan string, 100)
		add := func(name string, end func(err error) error) {
			registry.RegisterWith(name, Func(func(ctx context.Context, _ any) error {
				runs <- name
				<-ctx.Done()
				return end(ctx.Err())
			}), TaskOptions{Timeout: 5 * time.Millisecond, Retry: &Retry{Attempts: 3, Backoff: Constant(time.Millisecond)}})
		}
		add("test/never", NoRetry)
		add("test/later", func(err error) error { return RetryAfter(err, time.Hour) })
		e.runner(t, registry, nil)
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/never", nil))
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, "ran longer than its timeout of 5ms")
		require.Len(t, runs, 1)
		id := start(t, client, "test/later", nil)
		eventually(t, "it runs later", func() bool { return e.rdb.HGet(t.Context(), e.key("task:"+id), "state").Val() == "SCHEDULED" })
		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.Greater(t, time.Until(record.DueAt), 50*time.Minute)
	})
}
