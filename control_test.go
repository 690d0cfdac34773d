package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStopRunning(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		e.runner(t, registry, nil)
		client := e.client(t)

		id := start(t, client, "test/block", nil)
		receive(t, "run", b.running)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrStopped)
		require.NoError(t, client.Stop(testContext(t), id), "stopping a stopped task is no error")
		require.Zero(t, e.rdb.HLen(t.Context(), e.key("control:"+"x")).Val())
	})
}

func TestStopMeansWhatTheTaskReturns(t *testing.T) {
	cases := map[string]struct {
		returned error
		state    State
	}{
		"nil":        {nil, StateStopped},
		"cancelled":  {context.Canceled, StateStopped},
		"cause":      {ErrStopped, StateStopped},
		"done":       {ErrDone, StateEnded},
		"failure":    {Failf("broken"), StateError},
		"unexpected": {errSurprise, StateException},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				b := newBlocker()
				b.result.Store(errorBox{c.returned})
				registry := NewRegistry()
				registry.Register("test/block", b.factory)
				e.runner(t, registry, nil)
				client := e.client(t)
				id := start(t, client, "test/block", nil)
				receive(t, "run", b.running)
				require.NoError(t, client.Stop(testContext(t), id))
				require.Equal(t, c.state, wait(t, client, id).State)
			})
		})
	}
}

func TestStopWaiting(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		id := start(t, client, "test/never", nil)
		require.NoError(t, client.Stop(testContext(t), id))
		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.Equal(t, StateStopped, record.State)

		ran := make(chan string, 10)
		registry := NewRegistry()
		registry.Register("test/never", func() Task {
			return (&script{start: func(ctx context.Context) error { ran <- FromContext(ctx).ID(); return nil }}).task()
		})
		e.runner(t, registry, nil)
		next := start(t, client, "test/never", nil)
		require.Equal(t, next, receive(t, "run", ran), "the stopped one must not run")
		counts, err := client.Counts(testContext(t))
		require.NoError(t, err)
		require.EqualValues(t, 1, counts.Dropped, "its ID in line is dropped")
		require.EqualValues(t, 1, counts.Stopped)
	})
}

func TestStopRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		require.ErrorIs(t, client.Stop(testContext(t), "nobody"), ErrNotFound)
		require.ErrorIs(t, client.Reload(testContext(t), "nobody"), ErrNotFound)
		require.ErrorIs(t, client.Restart(testContext(t), "nobody"), ErrNotFound)
		require.NoError(t, client.Remove(testContext(t), "nobody"))

		registry := NewRegistry()
		registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
		e.runner(t, registry, nil)
		id := start(t, client, "test/end", nil)
		wait(t, client, id)
		var conflict *ConflictError
		require.ErrorAs(t, client.Stop(testContext(t), id), &conflict)
		require.Equal(t, StateEnded, conflict.State)
		require.ErrorIs(t, client.Reload(testContext(t), id), ErrFinal)
	})
}

// Stop is called first, has a ctx without cancellation, and Start's ctx stays open while Stop's time runs.
func TestStopper(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		type key struct{}
		quit, running, released := make(chan struct{}), make(chan struct{}), make(chan struct{})
		var stopCtxErr, startCtxErr error
		s := &script{
			provide: func(ctx context.Context) (context.Context, func(), error) {
				return context.WithValue(ctx, key{}, "app"), func() { close(released) }, nil
			},
			start: func(ctx context.Context) error {
				close(running)
				<-quit
				startCtxErr = ctx.Err()
				return nil
			},
			stop: func(ctx context.Context) error {
				stopCtxErr = ctx.Err()
				if ctx.Value(key{}) != "app" || FromContext(ctx) == nil {
					return errors.New("values missing")
				}
				if _, ok := ctx.Deadline(); !ok {
					return errors.New("deadline missing")
				}
				close(quit)
				return nil
			},
		}
		registry := NewRegistry()
		registry.Register("test/stopper", s.task)
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/stopper", nil)
		receive(t, "running", running)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		receive(t, "release", released)
		require.NoError(t, stopCtxErr)
		require.NoError(t, startCtxErr)
		require.False(t, e.log.has("Stop failed"), e.log.String())
	})
}

func TestStopperThatDoesNotHelpIsCancelled(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running := make(chan struct{})
		s := &script{
			start: func(ctx context.Context) error { close(running); <-ctx.Done(); return ctx.Err() },
			stop:  func(context.Context) error { return nil },
		}
		registry := NewRegistry()
		registry.RegisterWith("test/stopper", s.task, TaskOptions{StopTimeout: 30 * time.Millisecond})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/stopper", nil)
		receive(t, "running", running)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
	})
}

func TestStopThatPanicsCancels(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running := make(chan struct{})
		s := &script{
			start: func(ctx context.Context) error { close(running); <-ctx.Done(); return ctx.Err() },
			stop:  func(context.Context) error { panic("no") },
		}
		registry := NewRegistry()
		registry.Register("test/stopper", s.task)
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/stopper", nil)
		receive(t, "running", running)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.True(t, e.log.has("Stop failed"))
	})
}

func TestTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.RegisterWith("test/block", b.factory, TaskOptions{Timeout: 20 * time.Millisecond})
		e.runner(t, registry, nil)
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/block", nil))
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, "20ms")
		cause := receive(t, "cause", b.causes)
		require.ErrorIs(t, cause, ErrTimedOut)
		require.ErrorIs(t, cause, context.DeadlineExceeded)
	})
}

func TestRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		registry.Register("test/end", Func(func(context.Context, any) error { return Failf("no") }))
		e.runner(t, registry, nil)
		client := e.client(t)

		id := start(t, client, "test/block", nil)
		first := receive(t, "first run", b.running)
		require.NoError(t, client.Restart(testContext(t), id))
		require.ErrorIs(t, receive(t, "cause", b.causes), ErrRestarted)
		second := receive(t, "second run", b.running)
		require.Greater(t, second.Epoch(), first.Epoch())
		require.Equal(t, 1, second.Attempt())
		require.NoError(t, client.Stop(testContext(t), id))
		wait(t, client, id)

		failing := start(t, client, "test/end", nil)
		before := wait(t, client, failing)
		require.NoError(t, client.Restart(testContext(t), failing))
		eventually(t, "second end", func() bool {
			after, err := client.Get(testContext(t), failing)
			return err == nil && after.State == StateError && after.Epoch > before.Epoch+1 && after.Attempt == 1
		})
	})
}

// versions is a task that counts what happens to its instances.
type versions struct {
	inits  chan string
	starts chan string
	ends   chan string
}

func (v *versions) factory() Task {
	var text string
	return (&script{
		init: func(_ context.Context, data json.RawMessage) error {
			if err := json.Unmarshal(data, &text); err != nil {
				return err
			}
			v.inits <- text
			if text == "bad" {
				return errors.New("cannot do bad")
			}
			return nil
		},
		start: func(ctx context.Context) error {
			v.starts <- text
			<-ctx.Done()
			v.ends <- text + ":" + context.Cause(ctx).Error()
			return ctx.Err()
		},
	}).task()
}

func newVersions() *versions {
	return &versions{inits: make(chan string, 100), starts: make(chan string, 100), ends: make(chan string, 100)}
}

func TestUnknownControlWord(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "run", b.running)
		events, err := client.Watch(testContext(t), id)
		require.NoError(t, err)
		e.publish(t, id, "selfdestruct\x00"+string(make([]byte, 300)))
		for event := range events {
			if event.Name == EventControlFailed {
				require.Contains(t, string(event.Data), "selfdestruct")
				break
			}
		}
		e.publish(t, id, "stop")
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.True(t, e.log.has("unknown word"))
	})
}

// A stop that nobody published is found at the next renewal.
func TestRecordedStopIsFoundAtRenewal(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		runner := e.runner(t, registry, fastLease)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "run", b.running)
		e.rdb.HSet(t.Context(), e.key("control:"+runner.ID()), id, "stop")
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.False(t, e.rdb.HExists(t.Context(), e.key("control:"+runner.ID()), id).Val())
	})
}
