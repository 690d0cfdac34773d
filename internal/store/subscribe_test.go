package store

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func (e *env) subscribed(s *Subscription, err error) func() string {
	e.t.Helper()
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = s.Close() })
	return func() string {
		e.t.Helper()
		message, err := s.Next(e.ctx())
		require.NoError(e.t, err)
		require.NotNil(e.t, message)
		return message.Payload
	}
}

// Once a subscription is returned nothing is missed.
func TestSubscribeEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		one := e.subscribed(e.queue.SubscribeEvents(e.ctx(), "x"))
		all := e.subscribed(e.queue.SubscribeEvents(e.ctx(), ""))
		for _, id := range []string{"y", "x", "x:y"} {
			e.do("PUBLISH", e.keys.events(id), "of "+id)
		}
		e.do("PUBLISH", e.keys.events("x"), "last")
		require.Equal(t, "of x", one())
		require.Equal(t, "last", one(), "no other's")
		for _, want := range []string{"of y", "of x", "of x:y", "last"} {
			require.Equal(t, want, all())
		}
	})
}

func TestSubscribeControl(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		s, err := e.queue.SubscribeControl(e.ctx())
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		for _, id := range oddIDs {
			e.do("PUBLISH", e.keys.control(id), "stop")
			message, err := s.Next(e.ctx())
			require.NoError(t, err)
			require.Equal(t, "stop", message.Payload)
			require.Equal(t, id, e.queue.ControlID(message.Channel))
		}
	})
}

// Prefixes and queues may hold what a pattern takes as special: it matches itself alone.
func TestSubscribeQuotesPatterns(t *testing.T) {
	for _, prefix := range []string{"a*", "a?", "a[bc]", "[^a]", `a\b`, `a\*`, "]["} {
		t.Run(prefix, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				base := e.store.prefix
				odd := New(e.rdb, base+prefix).Queue("q" + prefix)
				events := e.subscribed(odd.SubscribeEvents(e.ctx(), ""))
				control := e.subscribed(odd.SubscribeControl(e.ctx()))
				for _, other := range []string{"a", "ab", "abc", "b", "c", "a*b", "*", `a\`, "a\\\\b"} {
					for _, name := range []string{other, prefix} {
						near := New(e.rdb, base+other).Queue("q" + name)
						e.do("PUBLISH", near.keys.events("x"), "of another")
						e.do("PUBLISH", near.keys.control("x"), "of another")
					}
				}
				e.do("PUBLISH", odd.keys.events("x"), "mine")
				e.do("PUBLISH", odd.keys.control("x"), "mine too")
				require.Equal(t, "mine", events())
				require.Equal(t, "mine too", control())
			})
		})
	}
}

// The end of ctx ends a subscription that waits for a message.
func TestSubscriptionEndsWithCtx(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ctx, cancel := context.WithCancel(e.ctx())
		s, err := e.queue.SubscribeEvents(ctx, "x")
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, err := s.Next(ctx)
			ended <- err
		}()
		cancel()
		select {
		case err := <-ended:
			require.Error(t, err)
		case <-e.ctx().Done():
			require.FailNow(t, "Next did not return")
		}
		_ = s.Close()
	})
}

func TestSubscribeWithAnEndedCtx(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		reason := errors.New("enough")
		ctx, cancel := context.WithCancelCause(e.ctx())
		cancel(reason)
		_, err := e.queue.SubscribeEvents(ctx, "x")
		require.ErrorIs(t, err, reason)
	})
}

func TestSubscribeWithoutRedis(t *testing.T) {
	t.Parallel()
	away := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	t.Cleanup(func() { _ = away.Close() })
	_, err := New(away, "p").Queue("q").SubscribeControl(testContext(t))
	require.ErrorContains(t, err, "subscribe")
}

// A connection that was cut is an error, not silence: the owner connects again.
func TestSubscriptionThatWasCut(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	s, err := e.queue.SubscribeEvents(e.ctx(), "x")
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	e.mini.Close()
	_, err = s.Next(e.ctx())
	require.ErrorContains(t, err, "subscription")
}
