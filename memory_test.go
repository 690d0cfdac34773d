package redtask

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

const evictionLine = "maxmemory-policy to noeviction"

// checkedRunner starts a runner, of two queues, and returns when it has asked for the eviction policy.
func checkedRunner(t *testing.T, e *env) {
	t.Helper()
	checked := make(chan string, 10)
	e.runner(t, blockRegistry(newBlocker()), func(o *RunnerOptions) {
		o.Queues = map[string]int{"a": 1, "b": 1}
		o.hooks.memoryChecked = func(queue string) { checked <- queue }
	})
	receive(t, "the policy is asked for", checked)
}

func TestRedisThatEvicts(t *testing.T) {
	t.Parallel()
	for policy, loss := range map[string]string{
		"allkeys-lru":  "redis drops tasks when its memory is full",
		"volatile-lru": "redis drops keys with a TTL when its memory is full",
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, "--maxmemory-policy", policy)
			e := newEnv(t, server.Addr, nil)
			checkedRunner(t, e)
			require.Equal(t, 1, strings.Count(e.log.String(), evictionLine), "one warning for all queues")
			require.True(t, e.log.has("level=WARN msg=\""+loss))
			require.True(t, e.log.has("maxmemory_policy="+policy))
		})
	}
}

func TestRedisThatDoesNotEvict(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) { // miniredis does not tell
		checkedRunner(t, e)
		require.False(t, e.log.has(evictionLine))
		require.False(t, e.log.has("level=WARN"))
		require.Equal(t, e.mini != nil, e.log.has("not known whether redis keeps all tasks"))
	})
}

// Managed services may forbid INFO.
func TestRedisThatForbidsInfo(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	admin := server.Client(t)
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-info").Err())
	e := newEnv(t, server.Addr, nil)
	e.rdb = redis.NewClient(&redis.Options{Addr: server.Addr, Username: "worker", Password: "secret"})
	t.Cleanup(func() { _ = e.rdb.Close() })
	checkedRunner(t, e)
	require.False(t, e.log.has("level=WARN"))
	require.True(t, e.log.has("not known whether redis keeps all tasks"))
	require.True(t, e.log.has("NOPERM"))
}

func TestSentinelThatEvicts(t *testing.T) {
	t.Parallel()
	sentinel, master := redistest.Sentinel(t)
	require.NoError(t, master.Client(t).ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lfu").Err())
	rdb := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: redistest.SentinelName, SentinelAddrs: []string{sentinel}})
	t.Cleanup(func() { _ = rdb.Close() })
	e := &env{rdb: rdb, prefix: "t" + newID(), log: &logBuffer{}}
	checkedRunner(t, e)
	require.Equal(t, 1, strings.Count(e.log.String(), evictionLine))
	require.True(t, e.log.has("maxmemory_policy=allkeys-lfu"))
}
