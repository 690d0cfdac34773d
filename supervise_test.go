package redtask

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
)

// A crash loop is seen across runners: each restart here is on another one, and the limit counts them all.
func TestSuperviseGivesUp(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/crash", failing(errSurprise, errSurprise, errSurprise), TaskOptions{
			Supervise: &Supervise{Backoff: Constant(time.Hour), MaxRestarts: 2},
		})
		client := e.client(t)
		next := kinds(t, client, "id")
		_, err := client.StartWith(testContext(t), "test/crash", nil, StartOptions{ID: "id"})
		require.NoError(t, err)
		for range 2 {
			runner := e.runner(t, registry, nil)
			require.Contains(t, string(next(EventScheduled).Data), `"reason":"supervised"`)
			require.NoError(t, shutdown(t, runner))
			require.NoError(t, client.RescheduleIn(testContext(t), "id", 0))
		}
		e.runner(t, registry, nil)
		require.Contains(t, string(next(EventException).Data), "restarted 2 times within 1h0m0s, which is the limit: given up; the last error: surprise")
		record := wait(t, client, "id")
		require.Equal(t, StateException, record.State)
		require.Equal(t, 3, record.Attempt)
		require.NotEqual(t, record.History[0].Runner, record.History[1].Runner)
		require.NoError(t, client.Restart(testContext(t), "id"))
		require.LessOrEqual(t, len(strings.Fields(e.rdb.HGet(testContext(t), e.key("task:id"), "restarts").Val())), 1, "whoever restarts it gives it all its restarts again")
	})
}

// A supervised task runs again also when it just returns, a stop ends it, and ErrDone does not.
func TestSuperviseAlways(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		runs := make(chan int, 100)
		var n atomic.Int64
		registry := NewRegistry()
		registry.Register("test/service", Func(func(ctx context.Context, _ any) error {
			run := FromContext(ctx)
			runs <- run.Attempt()
			switch n.Add(1) {
			case 1:
				return nil
			case 2:
				return ErrDone
			case 3:
				return Failf("odd")
			}
			<-ctx.Done()
			return ctx.Err()
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		id, err := client.StartWith(testContext(t), "test/service", nil, StartOptions{Supervise: &Supervise{Backoff: Constant(time.Millisecond)}})
		require.NoError(t, err)
		for want := 1; want <= 4; want++ {
			require.Equal(t, want, receive(t, "run", runs))
		}
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
	})
}

func TestWhatIsSupervised(t *testing.T) {
	t.Parallel()
	at := func(ago ...time.Duration) string {
		var text []string
		for _, d := range ago {
			text = append(text, strconv.FormatInt(time.Now().Add(-d).UnixMilli(), 10))
		}
		return strings.Join(text, " ")
	}
	for name, c := range map[string]struct {
		policy   Supervise
		restarts string
		age      time.Duration // of the run
		state    State
		err      error
		again    bool
		kept     int // restarts that count, this one among them
	}{
		"always, ended":      {Supervise{}, "", 0, StateEnded, nil, true, 1},
		"on failure, ended":  {Supervise{Restart: RestartOnFailure}, "", 0, StateEnded, nil, false, 0},
		"on failure, error":  {Supervise{Restart: RestartOnFailure}, "", 0, StateError, Fail(errSurprise), true, 1},
		"never":              {Supervise{Restart: RestartNever}, "", 0, StateException, errSurprise, false, 0},
		"refused":            {Supervise{}, "", 0, StateException, NoRetry(errSurprise), false, 0},
		"a third":            {Supervise{}, at(time.Minute, time.Second), 0, StateException, errSurprise, true, 3},
		"old ones forgotten": {Supervise{Within: 30 * time.Second}, at(time.Minute, time.Second), 0, StateException, errSurprise, true, 2},
		"after a stable run": {Supervise{}, at(time.Minute, time.Second), 2 * time.Minute, StateException, errSurprise, true, 1},
		"too many":           {Supervise{MaxRestarts: 2}, at(time.Minute, time.Second), 0, StateEnded, nil, false, 0},
		"junk":               {Supervise{MaxRestarts: 2}, "x y z", 0, StateEnded, nil, true, 1},
	} {
		r := &Run{engine: &engine{}, attempt: 1, terms: &terms{supervise: c.policy.withDefaults(), restarts: c.restarts}, born: time.Now().Add(-c.age)}
		got := r.next(c.state, c.err)
		require.Equal(t, c.again, got.again, name)
		if c.again {
			require.Equal(t, "restarts", got.fields[0], name)
			require.Len(t, strings.Fields(got.fields[1]), c.kept, name)
		}
		if name == "too many" {
			require.Equal(t, StateException, got.state, "it ends where someone will see it")
			require.ErrorContains(t, got.err, "each time it just returned")
		}
	}
}

// A task that is told to go and says that it is done is not run again: a shutdown does not turn its end into a restart.
func TestDoneAsToldIsTheEnd(t *testing.T) {
	t.Parallel()
	e := loneEngine(RunnerOptions{StuckAfter: time.Hour})
	for _, told := range []error{ErrShutdown, ErrStopped, ErrTimedOut} {
		r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: `{"supervise":{}}`}})
		require.Equal(t, "ENDED", e.outcome(r, told, ErrDone).State)
	}
	r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1, Extra: &store.Extra{Options: `{"supervise":{}}`}})
	require.Equal(t, "SCHEDULED", e.outcome(r, nil, ErrDone).State, "of its own accord it is as if it returned nil")
}

// How long a restart waits goes by the restarts in a row, up to MaxDelay, whatever attempt it is; a task may ask for a time of its own.
func TestBackoffOfRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := loneEngine(RunnerOptions{})
		policy := (&Supervise{Backoff: Delays(time.Second, 2*time.Second, 3*time.Second, time.Hour), MaxDelay: time.Minute, StableAfter: 2 * time.Minute}).withDefaults()
		r := &Run{engine: e, terms: &terms{supervise: policy}, attempt: 1}
		run := func(lasts time.Duration, err error) next {
			r.born = time.Now()
			time.Sleep(lasts) // of the bubble
			got := r.next(StateException, err)
			require.True(t, got.again)
			r.restarts, r.attempt = got.fields[1], r.attempt+1
			return got
		}
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, time.Minute, time.Minute} {
			require.Equal(t, want, run(time.Second, errSurprise).delay)
		}
		require.Equal(t, 7*time.Second, run(time.Second, RetryAfter(errSurprise, 7*time.Second)).delay)
		require.Equal(t, time.Minute, run(2*time.Minute-1, errSurprise).delay, "nearly stable")
		require.Equal(t, time.Second, run(2*time.Minute, errSurprise).delay, "stable")
		require.Equal(t, 2*time.Second, run(time.Second, errSurprise).delay)
	})
}

// Restarts count for Within by the clock of Redis, which all runners have in common.
func TestRestartsOfLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := loneEngine(RunnerOptions{})
		e.clockOffset.Store(-time.Hour.Milliseconds())
		now := e.now()
		policy := (&Supervise{Within: time.Minute, MaxRestarts: 2}).withDefaults()
		for ago, want := range map[int64]int{0: 2, 59_999: 2, 60_000: 1, 60_001: 1} {
			r := &Run{engine: e, terms: &terms{supervise: policy, restarts: strconv.FormatInt(now-ago, 10)}, born: time.Now()}
			got := r.next(StateException, errSurprise)
			require.True(t, got.again)
			kept := strings.Fields(got.fields[1])
			require.Len(t, kept, want, ago)
			require.Equal(t, strconv.FormatInt(now, 10), kept[want-1])
		}
	})
}

// A task that is given up has the stack of the panic that it ended with, for its record and for the handlers.
func TestGivenUpAfterAPanic(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/panic", Func(func(context.Context, any) error { panic("oh") }),
			TaskOptions{Supervise: &Supervise{MaxRestarts: 1, Backoff: Constant(time.Millisecond)}})
		seen := make(chan error, 10)
		e.runner(t, registry, func(o *RunnerOptions) {
			o.OnException = []ExceptionHandler{func(_ context.Context, _ *Run, err error) { seen <- err }}
		})
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/panic", nil))
		require.Contains(t, record.Error, "given up; the last error: panic: oh")
		require.Contains(t, record.Stack, "supervise_test.go")
		for range 2 {
			_, ok := errors.AsType[*PanicError](receive(t, "an exception", seen))
			require.True(t, ok)
		}
	})
}

// RestartNever is as if the task were not supervised: it may still ask to run again.
func TestRestartNeverMayAsk(t *testing.T) {
	t.Parallel()
	r := &Run{engine: &engine{}, terms: &terms{supervise: (&Supervise{Restart: RestartNever}).withDefaults()}, attempt: 1, born: time.Now()}
	require.False(t, r.next(StateException, errSurprise).again)
	require.False(t, r.next(StateEnded, nil).again)
	asked := r.next(StateException, RetryAfter(errSurprise, time.Minute))
	require.True(t, asked.again)
	require.Equal(t, time.Minute, asked.delay)
}
