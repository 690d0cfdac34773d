package redtask

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// Whoever may publish can forge an end: a watch shows it, Wait looks at the record and waits on.
func TestWaitIsNotFooledByAnEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		run := receive(t, "runs", b.running)
		events, err := client.Watch(testContext(t), id)
		require.NoError(t, err)
		ended := make(chan *Record, 1)
		go func() {
			record, _ := client.Wait(testContext(t), id)
			ended <- record
		}()
		forged := fmt.Sprintf(`{"event":"ended","data":"forged","id":%q,"task":"test/block","epoch":%d,"seq":99,"at":1}`, id, run.Epoch())
		listen := func(n int64) func() bool {
			return func() bool {
				return e.rdb.PubSubNumSub(t.Context(), e.key("events:"+id)).Val()[e.key("events:"+id)] == n
			}
		}
		eventually(t, "both listen", listen(2))
		require.NoError(t, e.rdb.Publish(t.Context(), e.key("events:"+id), forged).Err())
		var last Event
		for event := range events {
			last = event
		}
		require.JSONEq(t, `"forged"`, string(last.Data))
		eventually(t, "it waits on", listen(1))
		require.Empty(t, ended, "the task runs")
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, receive(t, "the end", ended).State)
	})
}

// Channels know no database: who shares a server hears, and tells, what has the same prefix in another one.
func TestChannelsKnowNoDatabase(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	other := newEnv(t, server.Addr, nil)
	other.rdb = redis.NewClient(&redis.Options{Addr: server.Addr, DB: 1})
	t.Cleanup(func() { _ = other.rdb.Close() })
	other.prefix = e.prefix
	events, err := other.client(t).WatchQueue(testContext(t))
	require.NoError(t, err)
	b := newBlocker()
	e.runner(t, blockRegistry(b), nil)
	id := start(t, e.client(t), "test/block", nil)
	receive(t, "runs", b.running)
	for event := range events {
		if event.ID == id && event.Name == EventRunning {
			break
		}
	}
	require.Zero(t, other.rdb.DBSize(t.Context()).Val())
	other.publish(t, id, "stop")
	require.ErrorIs(t, receive(t, "told from the other database", b.causes), ErrStopped)
	require.Equal(t, StateStopped, wait(t, e.client(t), id).State)
}

// What others write is cut before it is logged or kept: nobody fills a log with one word.
func TestForeignTextIsCut(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "runs", b.running)
		e.publish(t, id, strings.Repeat("word", 10_000))
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:broken"), "task", "test/block", "data", strings.Repeat("no JSON ", 10_000)).Err())
		require.NoError(t, e.rdb.LPush(t.Context(), e.key("wait"), "broken").Err())
		record := wait(t, client, "broken")
		require.Equal(t, StateException, record.State)
		require.Less(t, len(record.Error), 300)
		eventually(t, "the word is logged", func() bool { return e.log.has("unknown word") })
		require.Less(t, len(e.log.String()), 10_000)
	})
}
