package redtask

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
)

// A panic is an EXCEPTION, whatever it was made with, and whatever middleware wraps it in, unless the task runs again anyway.
func TestWrappedPanics(t *testing.T) {
	t.Parallel()
	for _, value := range []any{"boom", ErrDone, context.Canceled, ErrStopped, Failf("no milk")} {
		panicked := &PanicError{Value: value}
		for _, err := range []error{panicked, Fail(panicked), fmt.Errorf("around: %w", panicked)} {
			text := fmt.Sprintf("panic: %v", value)
			require.Equal(t, meaning{state: "EXCEPTION", text: text}, meaningOf(t, nil, err, text))
			require.Equal(t, meaning{state: "EXCEPTION", text: text}, meaningOf(t, []error{ErrStopped}, err, text))
			require.Equal(t, meansRestart, meaningOf(t, []error{ErrRestarted}, err, meansRestart.text))
		}
	}
}

// TimeoutAfter tells a task as the timeout of a registration does; the one that was over first is in the record.
func TestTimeoutAfter(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		called := make(chan bool, 1)
		after := func(times ...time.Duration) Middleware {
			return func(next Handler) Handler {
				return func(ctx context.Context, task Task) error {
					for _, d := range times {
						defer FromContext(ctx).TimeoutAfter(d)()
					}
					return next(ctx, task)
				}
			}
		}
		registry := NewRegistry()
		registry.RegisterWith("test/short", b.factory, TaskOptions{Timeout: time.Hour, Middleware: []Middleware{after(time.Minute, 100*time.Millisecond)}})
		registry.RegisterWith("test/options", b.factory, TaskOptions{Timeout: 100 * time.Millisecond, Middleware: []Middleware{after(time.Hour)}})
		registry.RegisterWith("test/none", b.factory, TaskOptions{Timeout: time.Hour, Middleware: []Middleware{after(0)}})
		registry.Register("test/off", Func(func(ctx context.Context, _ any) error {
			called <- FromContext(ctx).TimeoutAfter(time.Hour)()
			return nil
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		for _, name := range []string{"test/short", "test/options"} {
			record := wait(t, client, start(t, client, name, nil))
			require.Equal(t, StateException, record.State)
			require.Equal(t, "redtask: the task ran longer than its timeout of 100ms", record.Error, name)
			require.ErrorIs(t, receive(t, "cause", b.causes), ErrTimedOut)
		}
		require.Equal(t, "redtask: the task ran longer than its timeout of 0s", wait(t, client, start(t, client, "test/none", nil)).Error)
		require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/off", nil)).State)
		require.True(t, receive(t, "called off", called))
	})
}

// The first time that is over is the one that the task exceeded, whatever is over until it returns.
func TestFirstTimeoutCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for want, times := range map[string][]time.Duration{"2s": {3 * time.Second, 2 * time.Second}, "1m0s": {2 * time.Minute}} {
			e := loneEngine(RunnerOptions{StuckAfter: time.Hour})
			e.entries = map[string]*entry{"test/x": newEntry("test/x", nil, TaskOptions{Timeout: time.Minute})}
			r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1, Attempt: 1})
			stop := r.limitTime()
			for _, d := range times {
				r.TimeoutAfter(d)
			}
			time.Sleep(time.Hour) // of the bubble
			require.EqualError(t, r.overtime(ErrTimedOut, nil), ErrTimedOut.Error()+" of "+want)
			stop()
			close(r.returned)
			require.Equal(t, ErrTimedOut, r.close())
		}
	})
}
