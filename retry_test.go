package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// failing makes a task that returns the errors in turn, and nil after them.
func failing(errs ...error) Factory {
	var runs atomic.Int64
	return Func(func(context.Context, json.RawMessage) error {
		if n := int(runs.Add(1)); n <= len(errs) {
			return errs[n-1]
		}
		return nil
	})
}

// kinds of a task's events, with the reason if there is one.
func kinds(t *testing.T, client *Client, id string) (next func(want string) Event) {
	t.Helper()
	events, err := client.Watch(testContext(t), id)
	require.NoError(t, err)
	found := make(chan Event, 1000)
	go func() {
		defer close(found)
		for event := range events {
			found <- event
		}
	}()
	return func(want string) Event {
		t.Helper()
		for {
			event := receive(t, want, found)
			require.NotEmpty(t, event.Name, "the task ended without "+want)
			if event.Name == want {
				return event
			}
		}
	}
}

// A task that fails runs again, on any runner; until then its record tells why, and in the end it has the history.
func TestRetry(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", failing(errors.New("first"), errors.New("second")), TaskOptions{
			Retry: &Retry{Attempts: 3, Backoff: Constant(time.Hour)},
		})
		one, two := e.runner(t, registry, nil), e.runner(t, registry, nil)
		client := e.client(t)
		next := kinds(t, client, "id")
		_, err := client.StartWith(testContext(t), "test/flaky", nil, StartOptions{ID: "id"})
		require.NoError(t, err)
		for i, want := range []string{"first", "second"} {
			event := next(EventScheduled)
			require.JSONEq(t, fmt.Sprintf(`{"reason":"retry","attempt":%d,"error":%q,"delay_ms":3600000}`, i+1, want), string(event.Data))
			record, err := client.Get(testContext(t), "id")
			require.NoError(t, err)
			require.Equal(t, StateScheduled, record.State)
			require.Equal(t, want, record.Error)
			require.True(t, record.DueAt.After(time.Now().Add(59*time.Minute)), "an hour later")
			require.NoError(t, client.RescheduleIn(testContext(t), "id", 0))
		}
		next(EventEnded)
		record := wait(t, client, "id")
		require.Equal(t, StateEnded, record.State)
		require.Equal(t, 3, record.Attempt)
		require.Empty(t, record.Error, "it worked in the end")
		require.Len(t, record.History, 2)
		for i, want := range []string{"first", "second"} {
			a := record.History[i]
			require.Equal(t, want, a.Error)
			require.Equal(t, i+1, a.Number)
			require.Equal(t, StateException, a.State)
			require.Contains(t, []string{one.ID(), two.ID()}, a.Runner)
			require.False(t, a.EndedAt.Before(a.StartedAt))
		}
	})
}

// The last attempt's end is the task's; exception handlers see each, and which is the last.
func TestRetriesUsedUp(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", failing(errSurprise, errSurprise, errors.New("last"), errSurprise), TaskOptions{
			Retry: &Retry{Attempts: 3, Backoff: Constant(time.Millisecond)},
		})
		seen := make(chan string, 10)
		e.runner(t, registry, func(o *RunnerOptions) {
			o.OnException = []ExceptionHandler{func(_ context.Context, run *Run, err error) {
				in, again := run.RetryIn()
				seen <- fmt.Sprint(err, in, again)
			}}
		})
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/flaky", nil))
		require.Equal(t, StateException, record.State)
		require.Equal(t, "last", record.Error)
		require.Equal(t, 3, record.Attempt)
		require.Len(t, record.History, 2)
		for _, want := range []string{"surprise 1ms true", "surprise 1ms true", "last 0s false"} {
			require.Equal(t, want, receive(t, "handler", seen))
		}
		require.NoError(t, client.Restart(testContext(t), record.ID))
		eventually(t, "attempts are counted anew", func() bool {
			record, err := client.Get(testContext(t), record.ID)
			return err == nil && record.State == StateEnded && record.Attempt == 2
		})
	})
}

// What the start says beats the registration.
func TestRetryOfAStart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/fails", Func(func(context.Context, any) error { return Failf("as ever") }), TaskOptions{
			Retry: &Retry{Attempts: 2, Backoff: Constant(time.Hour)},
		})
		registry.Register("test/asks", Func(func(ctx context.Context, _ any) error {
			if FromContext(ctx).Attempt() < 3 {
				return RetryAfter(errSurprise, time.Millisecond)
			}
			return nil
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		id, err := client.StartWith(testContext(t), "test/fails", nil, StartOptions{
			Retry: &Retry{Attempts: 4, Failures: true, Backoff: Delays(time.Millisecond, 2*time.Millisecond)},
		})
		require.NoError(t, err)
		record := wait(t, client, id)
		require.Equal(t, StateError, record.State)
		require.Equal(t, 4, record.Attempt)
		require.Equal(t, StateError, record.History[0].State)
		record = wait(t, client, start(t, client, "test/asks", nil))
		require.Equal(t, StateEnded, record.State, "a task may ask without a policy")
		require.Equal(t, 3, record.Attempt)
	})
}

// A stop beats a retry: of a task that waits for it, and of one that fails when the stop is on its way.
func TestStopBeatsRetry(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		fail, running := make(chan error), make(chan string, 10)
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", Func(func(ctx context.Context, _ any) error {
			running <- FromContext(ctx).ID()
			return <-fail
		}), TaskOptions{Retry: &Retry{Attempts: 5, Backoff: Constant(time.Hour)}})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/flaky", nil)
		receive(t, "runs", running)
		fail <- errSurprise
		eventually(t, "scheduled", func() bool { r, err := client.Get(testContext(t), id); return err == nil && r.State == StateScheduled })
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		id = start(t, client, "test/flaky", nil)
		receive(t, "runs", running)
		require.NoError(t, client.Stop(testContext(t), id))
		fail <- errSurprise
		require.Equal(t, StateStopped, wait(t, client, id).State)
	})
}

func TestWhatIsRetried(t *testing.T) {
	t.Parallel()
	always := Constant(time.Minute)
	policy := (&Retry{Attempts: 3, Backoff: always}).withDefaults()
	both := (&Retry{Attempts: 3, Backoff: always, Failures: true}).withDefaults()
	zero := (&Retry{}).withDefaults()
	for name, c := range map[string]struct {
		policy   *Retry
		attempt  int
		deadline int64
		state    State
		err      error
		delay    time.Duration
	}{
		"no policy":             {nil, 1, 0, StateException, errSurprise, 0},
		"ended":                 {both, 1, 0, StateEnded, nil, 0},
		"exception":             {policy, 2, 0, StateException, errSurprise, time.Minute},
		"last attempt":          {policy, 3, 0, StateException, errSurprise, 0},
		"error":                 {policy, 1, 0, StateError, Fail(errSurprise), 0},
		"error on demand":       {both, 1, 0, StateError, Fail(errSurprise), time.Minute},
		"asked":                 {policy, 1, 0, StateError, RetryAfter(Fail(errSurprise), 7), 7},
		"asked, wrapped":        {policy, 1, 0, StateException, fmt.Errorf("x: %w", RetryAfter(errSurprise, 7)), 7},
		"asked, last attempt":   {policy, 3, 0, StateException, RetryAfter(errSurprise, 7), 0},
		"asked, one attempt":    {(&Retry{}).withDefaults(), 1, 0, StateException, RetryAfter(errSurprise, 7), 0},
		"asked, no policy":      {nil, 9, 0, StateException, RetryAfter(errSurprise, 7), 7},
		"asked, no policy, end": {nil, 10, 0, StateException, RetryAfter(errSurprise, 7), 0},
		"zero policy":           {zero, 1, 0, StateException, errSurprise, 0},
		"refused":               {policy, 1, 0, StateException, NoRetry(errSurprise), 0},
		"deadline before":       {policy, 1, time.Now().Add(30 * time.Second).UnixMilli(), StateException, errSurprise, 0},
		"deadline after":        {policy, 1, time.Now().Add(time.Hour).UnixMilli(), StateException, errSurprise, time.Minute},
	} {
		r := &Run{engine: &engine{}, terms: &terms{retry: c.policy, deadline: c.deadline}, attempt: c.attempt, born: time.Now()}
		got := r.next(c.state, c.err)
		require.Equal(t, c.delay > 0, got.again, name)
		require.Equal(t, c.delay, got.delay, name)
		require.Equal(t, c.state, got.state, name)
		require.Equal(t, c.err, got.err, name)
	}
	r := &Run{engine: &engine{}, terms: &terms{}, attempt: 1}
	require.Equal(t, next{again: true, reason: reasonRetry, state: StateException, err: RetryAfter(errSurprise, 0)},
		r.next(StateException, RetryAfter(errSurprise, -time.Hour)), "a negative delay is none")
	require.NoError(t, RetryAfter(nil, time.Second))
	require.NoError(t, NoRetry(nil))
	require.Equal(t, "surprise", NoRetry(errSurprise).Error())
}

// A retry, or a restart, that would come at the deadline or later is none. The deadline is by the clock of Redis.
func TestNoRetryAtTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := loneEngine(RunnerOptions{})
		e.clockOffset.Store(-time.Hour.Milliseconds())
		due := e.now() + time.Minute.Milliseconds()
		for deadline, again := range map[int64]bool{due - 1: false, due: false, due + 1: true} {
			r := &Run{engine: e, terms: &terms{deadline: deadline}, attempt: 1, born: time.Now()}
			r.retry = (&Retry{Attempts: 2, Backoff: Constant(time.Minute)}).withDefaults()
			require.Equal(t, again, r.next(StateException, errSurprise).again)
			r.supervise = (&Supervise{Backoff: Constant(time.Minute)}).withDefaults()
			require.Equal(t, again, r.next(StateException, errSurprise).again)
		}
	})
}

// What is said of the zero values in their docs.
func TestPolicyDefaults(t *testing.T) {
	t.Parallel()
	require.Equal(t, &Retry{Attempts: 1, MaxDelay: time.Hour}, (&Retry{}).withDefaults())
	require.Equal(t, &Supervise{
		Restart: RestartAlways, MaxDelay: time.Minute, StableAfter: time.Minute, MaxRestarts: 100, Within: time.Hour,
	}, (&Supervise{}).withDefaults())
	forever := func(int, error) time.Duration { return 1000 * time.Hour }
	for _, b := range []Backoff{Constant(1000 * time.Hour), BackoffFunc(forever)} { // what was written down holds as it is
		require.Equal(t, 1000*time.Hour, b.delay(1, nil, (&Retry{Backoff: b}).withDefaults().MaxDelay))
		require.Equal(t, 1000*time.Hour, b.delay(1, nil, (&Supervise{Backoff: b}).withDefaults().MaxDelay))
	}
	require.Equal(t, &Retry{Attempts: 1, MaxDelay: time.Second}, (&Retry{MaxDelay: time.Second}).withDefaults())
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	exponential := Exponential(time.Second)
	for n, most := range map[int]time.Duration{1: time.Second, 3: 4 * time.Second, 7: time.Minute, 2000: time.Minute} {
		low, high := time.Hour, time.Duration(0)
		for range 1000 {
			d := exponential.delay(n, nil, time.Minute)
			low, high = min(low, d), max(high, d)
		}
		require.LessOrEqual(t, high, most+time.Millisecond, n)
		require.Greater(t, high, most*9/10, "full jitter: up to the whole delay")
		require.Less(t, low, most/10, "full jitter: from zero on")
	}
	list := Delays(1, 2, 3)
	for n, want := range []time.Duration{1, 2, 3, 3} {
		require.Equal(t, want, list.delay(n+1, nil, time.Hour))
	}
	require.Equal(t, time.Duration(2), list.delay(3, nil, 2), "bounded")
	own := BackoffFunc(func(attempt int, err error) time.Duration { return time.Duration(attempt * len(err.Error())) })
	require.Equal(t, time.Duration(16), own.delay(2, errSurprise, time.Hour))
	require.Equal(t, time.Duration(5), own.delay(2, errSurprise, 5), "bounded")
	given := []time.Duration{1, 2}
	copied := Delays(given...)
	given[0] = 7
	require.Equal(t, time.Duration(1), copied.delay(1, nil, time.Hour), "what the caller does with its slice later is its own affair")
	negative := BackoffFunc(func(int, error) time.Duration { return -1 })
	require.Zero(t, negative.delay(1, nil, time.Hour))
	zero := Backoff{}
	require.LessOrEqual(t, zero.delay(1, nil, time.Hour), time.Second+time.Millisecond)
}

// A backoff function that panics must not lose the task's end.
func TestBackoffPanics(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", failing(errSurprise), TaskOptions{
			Retry: &Retry{Attempts: 2, Backoff: BackoffFunc(func(int, error) time.Duration { panic("odd") })},
		})
		e.runner(t, registry, nil)
		client := e.client(t)
		scheduled := kinds(t, client, "id")
		_, err := client.StartWith(testContext(t), "test/flaky", nil, StartOptions{ID: "id"})
		require.NoError(t, err)
		require.NotContains(t, string(scheduled(EventScheduled).Data), `"delay_ms":0}`, "the default backoff is used")
		require.Equal(t, StateEnded, wait(t, client, "id").State)
		require.True(t, e.log.has("backoff function panicked"))
	})
}

// What the docs allow is taken, up to the bound, and nothing beyond it.
func TestPoliciesAtTheirBounds(t *testing.T) {
	t.Parallel()
	delays := make([]time.Duration, maxBackoffDelays)
	good := []TaskOptions{
		{Retry: &Retry{Attempts: MaxAttempts, MaxDelay: time.Millisecond, Backoff: Delays(delays...)}},
		{Retry: &Retry{Backoff: Exponential(time.Millisecond)}},
		{Supervise: &Supervise{
			MaxRestarts: maxRestarts, MaxDelay: time.Millisecond, StableAfter: time.Millisecond, Within: time.Millisecond, Backoff: Delays(delays...),
		}},
	}
	for i, options := range good {
		require.NoError(t, NewRegistry().register("test/x", newBlocker().factory, options), i)
		start := StartOptions{
			Retry: options.Retry, Supervise: options.Supervise, In: time.Millisecond, Timeout: time.Millisecond, Expiry: time.Millisecond,
			Headers: map[string]string{"name": strings.Repeat("x", maxHeaders-len("name"))},
		}
		require.NoError(t, start.validate("test/x"), i)
	}
	for want, options := range map[string]TaskOptions{
		"Retry.Attempts 1001":             {Retry: &Retry{Attempts: MaxAttempts + 1}},
		"Retry.Backoff: 101 delays":       {Retry: &Retry{Backoff: Delays(append(delays, 1)...)}},
		"Supervise.Backoff: 101 delays":   {Supervise: &Supervise{Backoff: Delays(append(delays, 1)...)}},
		"Supervise.MaxDelay 999µs":        {Supervise: &Supervise{MaxDelay: 999 * time.Microsecond}},
		"Supervise.StableAfter -1s":       {Supervise: &Supervise{StableAfter: -time.Second}},
		"Retry.Backoff: Exponential(5ns)": {Retry: &Retry{Backoff: Exponential(5)}},
		"Retry.MaxDelay 999µs":            {Retry: &Retry{MaxDelay: 999 * time.Microsecond}},
	} {
		require.ErrorContains(t, NewRegistry().register("test/x", newBlocker().factory, options), want)
		start := StartOptions{Retry: options.Retry, Supervise: options.Supervise}
		require.ErrorContains(t, start.validate("test/x"), want)
	}
	for want, start := range map[string]StartOptions{
		"a function cannot travel":     {Supervise: &Supervise{Backoff: BackoffFunc(func(int, error) time.Duration { return 0 })}},
		"Headers have 16385 bytes":     {Headers: map[string]string{"name": strings.Repeat("x", maxHeaders-len("name")+1)}},
		"names and values are UTF-8":   {Headers: map[string]string{"name": "\xff"}},
		`header "\xff"`:                {Headers: map[string]string{"\xff": "value"}},
		"Timeout 999µs: use at least":  {Timeout: 999 * time.Microsecond},
		"Expiry 999µs: use at least":   {Expiry: 999 * time.Microsecond},
		"In 999µs: use at least 1ms; ": {In: 999 * time.Microsecond},
	} {
		require.ErrorContains(t, start.validate("test/x"), want)
	}
}

// All that is wrong with policies is told at once, where they are given.
func TestBadPolicies(t *testing.T) {
	t.Parallel()
	registry := NewRegistry()
	bad := TaskOptions{
		Timeout:   -1,
		Retry:     &Retry{Attempts: -1, MaxDelay: 5, Backoff: Delays(-1)},
		Supervise: &Supervise{Restart: "sometimes", MaxRestarts: 1001, Within: 3, Backoff: Exponential(-1)},
		Limits:    Limits{Concurrency: -1, Rate: Rate{N: 1}, KeyRate: Rate{Per: time.Hour}},
	}
	err := registry.register("bad name", nil, bad)
	require.ErrorIs(t, err, ErrInvalid)
	for _, want := range []string{
		"app/name", "factory is nil", "Timeout -1ns: use at least 1ms", "both Retry and Supervise", "Retry.Attempts -1", "Retry.MaxDelay 5ns",
		"a delay of -1ns", `Supervise.Restart "sometimes"`, "Supervise.MaxRestarts 1001", "Supervise.Within 3ns", "Exponential(-1ns)",
		"Limits.Concurrency -1", "Limits.Rate of 1 in 0s", "Limits.KeyRate of 0 in 1h",
	} {
		require.ErrorContains(t, err, want)
	}
	client := newEnv(t, "127.0.0.1:1", nil).client(t) // it is not asked
	_, err = client.StartWith(testContext(t), "test/a", nil, StartOptions{
		At: time.Now(), In: -1, Priority: "urgent", Key: "a\nb", Retry: &Retry{Backoff: BackoffFunc(func(int, error) time.Duration { return 0 })},
		Supervise: &Supervise{MaxRestarts: -1}, Timeout: 3, Expiry: -time.Hour, Headers: map[string]string{"": "x", "big": strings.Repeat("x", maxHeaders)},
		Once: Debounce("", 5*time.Second, time.Second),
	})
	require.ErrorIs(t, err, ErrInvalid)
	for _, want := range []string{
		"In -1ns", "both At and In", `Priority "urgent"`, `key "a\nb"`, "a function cannot travel", "both Retry and Supervise",
		"Supervise.MaxRestarts -1", "Timeout 3ns", "Expiry -1h", `header ""`, "Headers have", `key ""`, "longest 1s is less than quiet 5s",
		"Debounce with At or In",
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = client.StartWith(testContext(t), "test/a", nil, StartOptions{Ordered: true, Once: Throttle("k", 0)})
	require.ErrorContains(t, err, "Ordered without a Key")
	require.ErrorContains(t, err, "Once: a time of 0s")
	for _, once := range []Once{Throttle("k", time.Hour).OrReplace(), Throttle("k", time.Hour).OrExisting(), Debounce("k", time.Hour, 0).OrExisting()} {
		_, err = client.StartWith(testContext(t), "test/a", nil, StartOptions{Once: once})
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "OrExisting and OrReplace are for Unique")
	}
}
