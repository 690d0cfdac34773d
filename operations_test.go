package redtask

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// connectionsWith counts the server's connections whose description has a text.
func (e *env) connectionsWith(t *testing.T, text string) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(e.rdb.ClientList(t.Context()).Val()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// A pool of one connection serves a runner of three queues: what waits and what listens has connections of its own.
func TestConnectionsOfARunner(t *testing.T) {
	t.Parallel()
	admin := newEnv(t, redistest.Start(t).Addr, nil)
	e := newEnv(t, admin.rdb.Options().Addr, nil)
	e.rdb = redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr, PoolSize: 1, MaxActiveConns: 1})
	t.Cleanup(func() { _ = e.rdb.Close() })
	runner := e.runner(t, blockRegistry(newBlocker()), func(o *RunnerOptions) { o.Queues = map[string]int{"a": 1, "b": 1, "c": 1} })
	eventually(t, "one waits for each queue", func() bool { return admin.connectionsWith(t, "cmd=blmove") == 3 })
	require.Equal(t, 3, admin.connectionsWith(t, "psub=1"), "one listens for each queue")
	require.Equal(t, 8, admin.connectionsWith(t, "id="), "and one of the pool; the last is this test's")
	_, err := runner.Client().Watch(testContext(t), "some")
	require.NoError(t, err)
	require.Equal(t, 9, admin.connectionsWith(t, "id="), "and one for each watch")
}

// A master that has lost its replicas, and should not take writes without, refuses starts; a runner goes on when they are back.
func TestMasterWithoutItsReplicas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	b := newBlocker()
	e.runner(t, blockRegistry(b), func(o *RunnerOptions) { o.RenewInterval = 50 * time.Millisecond })
	client := e.client(t)
	id := start(t, client, "test/block", nil)
	receive(t, "runs", b.running)
	require.NoError(t, e.rdb.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err())
	_, err := client.Start(testContext(t), "test/block", nil)
	require.ErrorContains(t, err, "NOREPLICAS")
	eventually(t, "the runner says so", func() bool { return e.log.has("could not renew the lease") && e.log.has("NOREPLICAS") })
	require.NoError(t, e.rdb.ConfigSet(t.Context(), "min-replicas-to-write", "0").Err())
	require.NoError(t, client.Stop(testContext(t), id))
	require.ErrorIs(t, receive(t, "end", b.causes), ErrStopped, "it ran on meanwhile")
	require.Equal(t, StateStopped, wait(t, client, id).State)
}

// A backup brings tasks back as they were then: what waited waits, what ran is taken over once its lease of then has ended.
func TestRestoreOfABackup(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	client := e.client(t)
	b := newBlocker()
	first := e.runner(t, blockRegistry(b), fastLease)
	running := start(t, client, "test/block", "running")
	epoch := receive(t, "runs", b.running).Epoch()
	gone := start(t, client, "test/block", "ended since")
	receive(t, "runs", b.running)
	require.NoError(t, e.rdb.Save(t.Context()).Err())
	require.NoError(t, client.Stop(testContext(t), gone))
	require.Equal(t, StateStopped, wait(t, client, gone).State)
	require.NoError(t, shutdown(t, first))

	server.Restart(t) // loads what was saved
	require.NoError(t, e.rdb.IncrBy(t.Context(), e.key("epoch"), 1_000_000).Err())
	e.runner(t, blockRegistry(b), fastLease)
	ran := map[string]int64{}
	for range 2 {
		run := receive(t, "runs again", b.running)
		ran[run.ID()] = run.Epoch()
	}
	require.Greater(t, ran[running], epoch+1_000_000)
	require.Contains(t, ran, gone, "the backup knows nothing of its end")
	record, err := client.Get(testContext(t), running)
	require.NoError(t, err)
	require.Equal(t, 1, record.Attempt)
}
