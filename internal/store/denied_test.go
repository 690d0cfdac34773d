package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// as is the same queue, asked by a user with these rights.
func (e *env) as(rights ...any) *env {
	e.t.Helper()
	args := append([]any{"ACL", "SETUSER", "user", "reset", "on", ">secret", "~*", "resetchannels", "&*"}, rights...)
	e.do(args...)
	rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr, Username: "user", Password: "secret"})
	e.t.Cleanup(func() { _ = rdb.Close() })
	other := *e
	other.rdb = rdb
	return &other
}

// The user lacks one right after the other: each call works, or it says so. One that went on would take a pending stop, say, for none.
func TestEveryCallWithoutARight(t *testing.T) {
	t.Parallel()
	e := newEnv(t, redistest.Start(t).Addr, "p")
	denials := 0
	for _, command := range append([]string{"EVALSHA"}, allowed...) {
		user := e.as("+@all", "-"+strings.ToLower(command))
		for name, call := range calls {
			w := e.world()
			w.queue = New(user.rdb, strings.TrimSuffix(w.keys.base, ":{q}:")).Queue("q")
			w.do("ACL", "LOG", "RESET")
			err := call(w.ctx(), w)
			if log := w.do("ACL", "LOG").([]any); len(log) == 0 {
				require.NoError(t, err, "%s without %s", name, command)
				continue
			}
			denials++
			require.ErrorIs(t, err, ErrDenied, "%s without %s", name, command)
			require.ErrorContains(t, err, "ACL LOG", "%s without %s", name, command)
		}
	}
	require.Greater(t, denials, 100)
}

// Calls that are no scripts.
var plainCalls = map[string]func(ctx context.Context, e *env) error{
	"announce": func(ctx context.Context, e *env) error { return e.store.Announce(ctx, "q") },
	"queues":   func(ctx context.Context, e *env) error { _, err := e.store.Queues(ctx); return err },
	"policy":   func(ctx context.Context, e *env) error { _, _, err := e.store.EvictionPolicy(ctx); return err },
	"get":      func(ctx context.Context, e *env) error { _, err := e.queue.Get(ctx, "t"); return err },
	"get many": func(ctx context.Context, e *env) error { _, err := e.queue.GetMany(ctx, []string{"t"}); return err },
	"page":     func(ctx context.Context, e *env) error { _, _, err := e.queue.Page(ctx, "wait", "", 10); return err },
	"running":  func(ctx context.Context, e *env) error { _, _, err := e.queue.Page(ctx, "running", "", 10); return err },
	"walk":     func(ctx context.Context, e *env) error { return e.walkAll(ctx) },
	"look": func(ctx context.Context, e *env) error {
		_, err := e.queue.Look(ctx, []string{"t"}, "ended_at", true)
		return err
	},
	"change": func(ctx context.Context, e *env) error {
		_, err := e.queue.Change(ctx, Stop, []Found{{ID: "t", State: "WAIT"}}, "n")
		return err
	},
	"runners": func(ctx context.Context, e *env) error { _, err := e.queue.Runners(ctx); return err },
	"owned":   func(ctx context.Context, e *env) error { _, err := e.queue.Owned(ctx, "r"); return err },
	"owns":    func(ctx context.Context, e *env) error { _, err := e.queue.Owns(ctx, "r", "1:t"); return err },
	"intents": func(ctx context.Context, e *env) error { _, err := e.queue.Intents(ctx, "r"); return err },
	"silence": func(ctx context.Context, e *env) error { _, _, err := e.queue.Silence(ctx, "r"); return err },
	"data":    func(ctx context.Context, e *env) error { _, err := e.queue.ReloadData(ctx, "t"); return err },
	"field":   func(ctx context.Context, e *env) error { _, err := e.queue.Field(ctx, "t", "data"); return err },
	"epoch":   func(ctx context.Context, e *env) error { _, err := e.queue.ReserveEpoch(ctx); return err },
	"count":   func(ctx context.Context, e *env) error { return e.queue.Count(ctx, "stuck", 1) },
	"control": func(ctx context.Context, e *env) error { return closed(e.queue.SubscribeControl(ctx)) },
	"events":  func(ctx context.Context, e *env) error { return closed(e.queue.SubscribeEvents(ctx, "t")) },
	"many": func(ctx context.Context, e *env) error {
		return closed(e.queue.SubscribeMany(ctx, []string{"t", "u"}, nil))
	},
	"states": func(ctx context.Context, e *env) error { _, err := e.queue.States(ctx, []string{"t"}); return err },
	"blocker": func(ctx context.Context, e *env) error {
		blocker, err := e.queue.NewBlocker(ctx, "r")
		if err != nil {
			return err
		}
		_, err = blocker.Wait(ctx, time.Second)
		return errors.Join(err, blocker.Close())
	},
}

func closed(subscription *Subscription, err error) error {
	if err == nil {
		_ = subscription.Close()
	}
	return err
}

func TestPlainCallsOfAUser(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, "p")
	bare := e.as("-@all")
	pings := e.as("-@all", "+ping")
	wrong := *e
	wrong.rdb = redis.NewClient(&redis.Options{Addr: server.Addr, Username: "user", Password: "wrong"})
	locked := newEnv(t, server.Addr, "p") // nobody logs in
	e.do("ACL", "SETUSER", "default", "resetpass", ">admin")
	t.Cleanup(func() { _ = wrong.rdb.Close() })
	for user, u := range map[string]struct {
		env  *env
		hint string
	}{
		"without rights":          {bare, "NOPERM"},
		"with a right to connect": {pings, "NOPERM"},
		"with a wrong password":   {&wrong, "WRONGPASS"},
		"without a name":          {locked, "NOAUTH"},
	} {
		u.env.store = New(u.env.rdb, "p")
		u.env.queue = u.env.store.Queue("q")
		for name, call := range plainCalls {
			err := call(testContext(t), u.env)
			require.ErrorIs(t, err, ErrDenied, "%s %s", name, user)
			require.ErrorContains(t, err, u.hint, "%s %s", name, user)
		}
	}
}
