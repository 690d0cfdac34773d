package redtask

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forbidden is what no user of an application should be able to do to a server that it shares.
var forbidden = []string{
	"FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "CONFIG GET *", "CONFIG SET maxmemory 1", "ACL LIST", "ACL SETUSER me on",
	"CLIENT LIST", "CLIENT KILL TYPE normal", "SHUTDOWN NOSAVE", "SCRIPT FLUSH", "FUNCTION FLUSH", "MONITOR", "SAVE",
	"REPLICAOF no one", "MODULE LIST", "RENAME redtask:{default}:wait redtask:{default}:away", "EXPIRE redtask:{default}:wait 1",
	"SELECT 1", "MOVE redtask:{default}:wait 1", "RESTORE redtask:x 0 x", "MIGRATE localhost 1 redtask:x 0 1",
	"HGETALL other:{default}:task:42", "HSET other:{default}:task:42 task x", "LPUSH other:{default}:wait 42", "GET redtasks:x", "ZADD other 1 x",
	"PUBLISH other:{default}:control:42 stop", "PUBLISH redtask:{mails}:control:42 stop", "PUBLISH redtask:other x",
	"SUBSCRIBE other:{default}:events:42", "SUBSCRIBE redtask:{mails}:events:42", "PSUBSCRIBE *", "PSUBSCRIBE redtask:*",
	"PSUBSCRIBE redtask:{default}:*", "PSUBSCRIBE redtask:{mails}:events:*",
}

func requireRefusals(t *testing.T, admin *env, user string) {
	t.Helper()
	keys := admin.lasting(t)
	u := admin.as(t, user)
	conn := u.rdb.Conn() // a subscription would occupy it: none may come about
	defer func() { _ = conn.Close() }()
	try := func(args ...any) {
		t.Helper()
		err := conn.Do(t.Context(), args...).Err()
		require.Error(t, err, "%s: %v", user, args)
		require.Regexp(t, "NOPERM|user executing the script|ACL failure|not allowed from script", err.Error(), "%s: %v", user, args)
	}
	for _, line := range forbidden {
		var args []any
		for word := range strings.FieldsSeq(line) {
			args = append(args, word)
		}
		try(args...)
		if !slices.Contains([]string{"MONITOR", "SHUTDOWN", "SUBSCRIBE", "PSUBSCRIBE", "SELECT"}, args[0].(string)) {
			lua := fmt.Sprintf("return redis.call('%s')", strings.Join(strings.Fields(line), "','"))
			try("EVAL", lua, 0)
		}
	}
	if user == "viewer" {
		requireReadOnly(t, u, try)
	}
	require.Equal(t, keys, admin.lasting(t))
}

// lasting are the keys that do not go by themselves, as the lock of the cleaner and a rate's starts do.
func (e *env) lasting(t *testing.T) []string {
	t.Helper()
	keys, err := e.rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	keys = slices.DeleteFunc(keys, func(key string) bool { return e.rdb.PTTL(t.Context(), key).Val() != -1 })
	slices.Sort(keys)
	return keys
}

// requireReadOnly: each call of a client that would write returns an error that says so, and changes nothing.
func requireReadOnly(t *testing.T, viewer *env, try func(args ...any)) {
	t.Helper()
	ctx, client := testContext(t), viewer.client(t)
	before, err := client.Get(ctx, "waiting")
	require.NoError(t, err)
	for call, write := range map[string]func() error{
		"Start":      func() error { _, err := client.Start(ctx, "test/block", nil); return err },
		"StartWith":  func() error { _, err := client.StartWith(ctx, "test/block", nil, StartOptions{ID: "x"}); return err },
		"StartMany":  func() error { _, err := client.StartMany(ctx, []StartRequest{{Task: "test/block"}}); return err },
		"Stop":       func() error { return client.Stop(ctx, "waiting") },
		"Reload":     func() error { return client.Reload(ctx, "waiting") },
		"ReloadWith": func() error { return client.ReloadWith(ctx, "waiting", "x") },
		"Restart":    func() error { return client.Restart(ctx, "ended") },
		"Remove":     func() error { return client.Remove(ctx, "waiting") },
		"StopMany":   func() error { _, err := client.StopMany(ctx, Filter{State: StateWait}); return err },
	} {
		err := write()
		require.ErrorIs(t, err, ErrDenied, call)
		require.ErrorContains(t, err, "ACL LOG", call)
	}
	try("PSUBSCRIBE", "redtask:{default}:control:*")
	try("SUBSCRIBE", "redtask:{default}:control:42")
	for _, line := range []string{
		"HSET task:waiting task x", "HDEL task:waiting task", "LPUSH wait x", "RPUSH wait x", "SADD running:r 9:x", "ZADD runners 1 x", "SET epoch 1",
		"DEL wait", "UNLINK wait", "INCR epoch", "PUBLISH control:running stop",
	} {
		words := strings.Fields(line)
		args := []any{words[0], viewer.key(words[1])}
		for _, word := range words[2:] {
			args = append(args, word)
		}
		try(args...)
	}
	after, err := client.Get(ctx, "waiting")
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// A runner whose user lacks a right says so, and goes on as soon as it has it.
func TestRunnerWithoutARight(t *testing.T) {
	t.Parallel()
	for lack, c := range map[string]struct {
		lack, give []any
		says       string
	}{
		"commands": {[]any{"-hset"}, []any{"+hset"}, "the runner takes no tasks yet: it could not register in redis"},
		"keys":     {[]any{"resetkeys", "~redtask:{default}:*"}, []any{"~redtask:*"}, "the runner takes no tasks yet: it could not register in redis"},
		"waiting":  {[]any{"-blmove"}, []any{"+blmove"}, "cannot wait for tasks"},
		"channels": {
			[]any{"resetchannels", "&redtask:*"}, []any{"&redtask:{default}:control:*", "&redtask:{default}:events:*"},
			"cannot subscribe to control messages",
		},
		"claims":   {[]any{"-hmget"}, []any{"+hmget"}, "redis does not take what tasks did"},
		"monitor":  {[]any{"-zrange"}, []any{"+zrange"}, "monitor could not look for dead runners"},
		"renewals": {[]any{"-hlen"}, []any{"+hlen"}, "could not renew the lease"},
		"password": {[]any{"resetpass", ">other"}, []any{">" + password(t, "worker")}, "the runner takes no tasks yet: it could not register in redis"},
		"user":     {[]any{"off"}, []any{"on"}, "the runner takes no tasks yet: it could not register in redis"},
	} {
		t.Run(lack, func(t *testing.T) {
			t.Parallel()
			admin := withUsers(t)
			admin.do(t, append([]any{"ACL", "SETUSER", "worker"}, c.lack...)...)
			worker := admin.as(t, "worker")
			listening := make(chan string, 10)
			options := RunnerOptions{Logger: admin.logger(), Grace: NoGrace}
			busy(&options)
			options.hooks.listening = func(queue string) { listening <- queue }
			v := newVersions()
			start(t, admin.as(t, "producer").client(t), "test/steps", "to be claimed")
			runner, err := NewRunner(worker.rdb, tasksOf(v, newBlocker()), options)
			require.NoError(t, err)
			require.NoError(t, runner.Start(t.Context()))
			t.Cleanup(func() { require.NoError(t, shutdown(t, runner)) })
			told := regexp.MustCompile(regexp.QuoteMeta(c.says) + `.*redis denies it to this user.*(ACL LOG on the server|check user name and password)`)
			eventually(t, "the log says so", func() bool { return told.MatchString(admin.log.String()) })
			admin.do(t, append([]any{"ACL", "SETUSER", "worker"}, c.give...)...)
			receive(t, "it listens", listening)
			control(t, admin.as(t, "producer").client(t), v)
		})
	}
}

// What docs/operations.md calls optional is.
func TestRunnerWithoutOptionalRights(t *testing.T) {
	t.Parallel()
	for _, lacks := range [][]any{{"-info", "-client"}, {"-multi"}, {"-exec"}} {
		t.Run(fmt.Sprint(lacks...), func(t *testing.T) {
			t.Parallel()
			admin := withUsers(t)
			admin.do(t, append([]any{"ACL", "SETUSER", "worker"}, lacks...)...)
			idle := make(chan string, 1000)
			v := newVersions()
			runner := admin.as(t, "worker").runner(t, tasksOf(v, newBlocker()), func(o *RunnerOptions) {
				o.hooks.idle = func(queue string) { idle <- queue }
			})
			control(t, admin.as(t, "producer").client(t), v)
			receive(t, "idle", idle)
			require.NoError(t, shutdown(t, runner))
			require.False(t, admin.log.has("level=WARN"), admin.log)
		})
	}
}

// The connection is made and the call refused, again and again: that is one line in the log, and no loop without a pause.
func TestWaitingThatIsRefused(t *testing.T) {
	t.Parallel()
	admin := withUsers(t)
	admin.do(t, "ACL", "SETUSER", "worker", "-blmove")
	idle := make(chan string, 1000)
	v := newVersions()
	admin.as(t, "worker").runner(t, tasksOf(v, newBlocker()), func(o *RunnerOptions) {
		o.hooks.idle = func(queue string) { idle <- queue }
	})
	for range 4 {
		receive(t, "it tries to wait", idle)
	}
	require.Equal(t, 1, strings.Count(admin.log.String(), "cannot wait for tasks"), admin.log)
	control(t, admin.as(t, "producer").client(t), v) // with a short delay, but all the same
}
