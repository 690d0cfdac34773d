package redtask

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// reloaded is a task of versions, in middleware that names the ctx of each instance, and says which methods see it.
func reloaded(v *versions, order chan<- string) *Registry {
	registry := NewRegistry()
	registry.RegisterWith("test/versions", func() Task {
		inner := v.factory().(scripted).script
		return (&script{
			init: func(ctx context.Context, data json.RawMessage) error {
				order <- "init in " + layersOf(ctx)
				return inner.init(ctx, data)
			},
			start: func(ctx context.Context) error { order <- "start in " + layersOf(ctx); return inner.start(ctx) },
		}).task()
	}, TaskOptions{Middleware: []Middleware{layer("m", order)}})
	return registry
}

// In a reload the middleware is around the Start of the new instance, and comes after it has returned for the old one.
func TestMiddlewareOfAReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v, order := newVersions(), make(chan string, 100)
		e.runner(t, reloaded(v, order), nil)
		client := e.client(t)
		id := start(t, client, "test/versions", "one")
		require.Equal(t, "one", receive(t, "start", v.starts))
		requireOrder(t, order, "m of test/versions", "init in m", "start in m")
		for _, data := range []string{"two", "three"} {
			require.NoError(t, client.ReloadWith(testContext(t), id, data))
			require.Equal(t, data, receive(t, "start of the new", v.starts))
			requireOrder(t, order, "init in ", "m done", "m of test/versions", "start in m")
		}
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		requireOrder(t, order, "m done")
		require.Len(t, v.inits, 3, "each instance once")
	})
}

// The Init of a reload fails, or the task is stopped meanwhile: no middleware sees the new instance.
func TestMiddlewareOfAReloadThatFails(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v, order := newVersions(), make(chan string, 100)
		e.runner(t, reloaded(v, order), nil)
		client := e.client(t)
		events, err := client.Watch(testContext(t), "42")
		require.NoError(t, err)
		_, err = client.StartWith(testContext(t), "test/versions", "one", StartOptions{ID: "42"})
		require.NoError(t, err)
		require.Equal(t, "one", receive(t, "start", v.starts))
		require.NoError(t, client.ReloadWith(testContext(t), "42", "bad"))
		for event := range events {
			if event.Name == EventReloadFailed {
				break
			}
		}
		requireOrder(t, order, "m of test/versions", "init in m", "start in m", "init in ")
		require.NoError(t, client.Stop(testContext(t), "42"))
		require.Equal(t, StateStopped, wait(t, client, "42").State)
		requireOrder(t, order, "m done")
	})
}

func TestStopDuringAReloadInMiddleware(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		inInit, b, order := make(chan struct{}), newBlocker(), make(chan string, 100)
		registry := NewRegistry()
		registry.RegisterWith("test/slow", slowSuccessor(b, inInit), TaskOptions{Middleware: []Middleware{layer("m", order)}})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/slow", nil)
		receive(t, "run", b.running)
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		receive(t, "init of the new", inInit)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		requireOrder(t, order, "m of test/slow", "m done")
		require.Empty(t, b.running)
	})
}
