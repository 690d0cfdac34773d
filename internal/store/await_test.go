package store

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Once it is returned nothing is missed of any of them, and nothing of others comes; what came before went to take.
func TestSubscribeMany(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ids := append(numbered("x", 3*maxSubscribe), oddIDs...)
		stop, told := make(chan struct{}), make(chan struct{})
		go func() { // somebody talks all the while
			defer close(told)
			for {
				select {
				case <-stop:
					return
				default:
					e.rdb.Publish(context.Background(), e.keys.events("x0"), "before")
				}
			}
		}()
		s, err := e.queue.SubscribeMany(e.ctx(), ids, func(message *redis.Message) {
			require.Equal(t, "x0", e.queue.EventsID(message.Channel))
		})
		close(stop)
		<-told
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		e.do("PUBLISH", e.keys.events("another"), "mine is not asked for")
		for _, id := range ids {
			e.do("PUBLISH", e.keys.events(id), "of "+id)
		}
		for _, id := range ids {
			message := &redis.Message{Payload: "before"}
			for message.Payload == "before" {
				message, err = s.Next(e.ctx())
				require.NoError(t, err)
				require.NotNil(t, message)
			}
			require.Equal(t, "of "+id, message.Payload)
			require.Equal(t, id, e.queue.EventsID(message.Channel))
		}
	})
}

func TestSubscribeManyEndsWithItsContext(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ctx, cancel := context.WithCancelCause(e.ctx())
		reason := errors.New("no more time")
		cancel(reason)
		_, err := e.queue.SubscribeMany(ctx, numbered("x", 1000), nil)
		require.ErrorIs(t, err, reason)
	})
}

func TestStates(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.set("waits", "task", "test/a")
		e.set("runs", "task", "test/a", "state", "RUNNING")
		e.set("odd", "state", "ENDED")
		e.do("SET", e.keys.task("string"), "x")
		states, err := e.queue.States(e.ctx(), []string{"waits", "missing", "runs", "string", "odd"})
		require.NoError(t, err)
		require.Equal(t, []string{"WAIT", "", "RUNNING", "", "ENDED"}, states)
		states, err = e.queue.States(e.ctx(), nil)
		require.NoError(t, err)
		require.Empty(t, states)
	})
}
