package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var sources embed.FS

// One script per atomic transition; the header of each file is its contract.
var (
	scriptAdopt      = load("adopt")
	scriptCommit     = load("commit", "holds")
	scriptCounts     = load("counts")
	scriptDue        = load("due")
	scriptEnter      = load("enter")
	scriptEntries    = load("entries")
	scriptFire       = load("fire", "holds", "begins", "stops")
	scriptLeases     = load("leases", "earliest")
	scriptPromote    = load("promote", "holds", "earliest")
	scriptRegister   = load("register")
	scriptReload     = load("reload")
	scriptRemove     = load("remove", "holds")
	scriptRenew      = load("renew", "earliest")
	scriptReserve    = load("reserve")
	scriptReschedule = load("reschedule", "holds")
	scriptRestart    = load("restart", "holds")
	scriptRetry      = load("retry", "holds")
	scriptStart      = load("start")
	scriptStop       = load("stop", "holds", "stops")
	scriptSuspend    = load("suspend")
	scriptSweep      = load("sweep")
	scriptTakeOver   = load("takeover", "holds")
	scriptUnregister = load("unregister")

	// The start of a plain task does not pay for what others need.
	scriptStartSpecial = load("start", "holds", "begins")
)

type script struct {
	name string
	*redis.Script
}

// load puts what scripts share in front of one: the prelude, and further parts that it names.
func load(name string, parts ...string) script {
	var text strings.Builder
	for _, part := range append(append([]string{"prelude"}, parts...), name) {
		source, err := sources.ReadFile("lua/" + part + ".lua")
		if err != nil {
			panic(err) // embedded at build time: it cannot be absent
		}
		text.Write(source)
		text.WriteByte('\n')
	}
	return script{name: name, Script: redis.NewScript(text.String())}
}

// run calls a script by its digest, and sends the source when the server does not know it yet. The last key, which never exists, makes
// a Cluster refuse the call while the queue's slot moves: a record that is still, or already, on the other node would look missing.
func (q *Queue) run(ctx context.Context, s script, keys []string, args ...any) (any, error) {
	reply, err := s.Run(ctx, q.rdb, append(keys, q.keys.room), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("%s in queue %q: %w", s.name, q.name, explain(err))
	}
	return reply, nil
}

// explain says which server fault an error is, where the server's words alone do not tell what to do.
func explain(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "WRONGTYPE"):
		return fmt.Errorf("%w: %w; find the key with TYPE and delete or rename it", ErrWrongType, err)
	case strings.HasPrefix(text, "OOM "), strings.Contains(text, "OOM command not allowed"):
		return fmt.Errorf("%w: %w; raise maxmemory, or remove final tasks", ErrFull, err)
	case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "NOAUTH"):
		return fmt.Errorf("%w: %w; check user name and password in the options of the redis client", ErrDenied, err)
	case forbidden(text):
		return fmt.Errorf("%w: %w; ACL LOG on the server names the command, key or channel, docs/operations.md lists the rights that are needed",
			ErrDenied, err)
	}
	return err
}

// forbidden reports whether an ACL refused a call, or one within a script, for which each version of Redis has words of its own.
func forbidden(text string) bool {
	return strings.Contains(text, "NOPERM") || strings.Contains(text, "The user executing the script can't") ||
		strings.Contains(text, "ACL failure in script")
}

// Answered reports whether an error is Redis' own answer. After any other, whether the call took effect is unknown.
func Answered(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// Refused reports whether Redis answered with an error that no waiting mends; a server that loads its data, or changes its role, does
// not refuse.
func Refused(err error) bool {
	for _, passing := range []func(error) bool{
		redis.IsLoadingError, redis.IsReadOnlyError, redis.IsMasterDownError, redis.IsClusterDownError, redis.IsTryAgainError,
		redis.IsNoReplicasError, redis.IsMaxClientsError,
	} {
		if passing(err) {
			return false
		}
	}
	return Answered(err)
}
