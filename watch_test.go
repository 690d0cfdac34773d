package redtask

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The end of a task that came while its watcher was disconnected is looked up as soon as that is back. A silence of the channel would
// show it too, so here there is none.
func TestWatchFindsAnEndAfterAReconnect(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		p := newProxy(t, e.rdb.Options().Addr)
		via := newEnv(t, p.addr(), e.mini)
		via.prefix = e.prefix
		b := newBlocker()
		e.runner(t, blockRegistry(b), longLease)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		run := receive(t, "runs", b.running)
		events, err := via.client(t).Watch(testContext(t), id)
		require.NoError(t, err)
		got := make(chan string, 1000)
		go func() {
			defer close(got)
			for event := range events {
				got <- event.Name
			}
		}()
		require.NoError(t, run.Emit("hello", nil))
		for kind := ""; kind != "hello"; {
			kind = receive(t, "an event", got)
		}
		p.cut(false, true)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		p.allow()
		var kinds []string
		eventually(t, "the end of the watch", func() bool {
			e.rdb.Publish(t.Context(), e.key("events:"+id), "junk, which is not shown")
			for {
				select {
				case kind, open := <-got:
					if !open {
						return true
					}
					kinds = append(kinds, kind)
				default:
					return false
				}
			}
		})
		require.Equal(t, []string{EventGap, EventStopped}, kinds)
	})
}
