// Package store keeps tasks in Redis. It is the only place that knows keys, commands and scripts: each method is one atomic
// transition of a task's life, or one bounded read, and turns what Redis answers into this package's types and errors.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
)

// Protocol is the version of the wire protocol, kept at PREFIX:protocol.
const Protocol = "1"

var (
	ErrMissing   = errors.New("not found")
	ErrFinal     = errors.New("it is final; restart it to run it again")
	ErrRunning   = errors.New("stop it first")
	ErrExists    = errors.New("its ID is in use; choose another one")
	ErrNotUnique = errors.New("it has the unique key of this start")
	ErrWrongType = errors.New("a key holds the wrong type")
	ErrFull      = errors.New("redis is out of memory")
	ErrDenied    = errors.New("redis denies it to this user")
	ErrProtocol  = errors.New("other protocol version in redis")
)

// Store is one prefix in one Redis. It holds no state of its own and may be used by any number of goroutines.
type Store struct {
	rdb    redis.UniversalClient
	prefix string
}

func New(rdb redis.UniversalClient, prefix string) *Store {
	return &Store{rdb: rdb, prefix: prefix}
}

// Queue is one queue of a store; like it, stateless.
type Queue struct {
	rdb  redis.UniversalClient
	name string
	keys keys
}

func (s *Store) Queue(name string) *Queue {
	return &Queue{rdb: s.rdb, name: name, keys: newKeys(s.prefix, name)}
}

func (q *Queue) Name() string { return q.name }

// Announce adds a queue to the known ones, and refuses a Redis that speaks another version of the protocol. It reads first: a full Redis
// accepts no additions, and needs runners all the more.
func (s *Store) Announce(ctx context.Context, queue string) error {
	key := s.prefix + ":protocol"
	found, err := s.rdb.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		if err := s.rdb.SetNX(ctx, key, Protocol, 0).Err(); err != nil {
			return fmt.Errorf("write %s: %w", key, explain(err))
		}
		found, err = s.rdb.Get(ctx, key).Result()
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", key, explain(err))
	}
	if found != Protocol {
		return fmt.Errorf("%w: %s says %q, this library speaks %q; use the matching version of redtask, or another prefix",
			ErrProtocol, key, found, Protocol)
	}
	key = s.prefix + ":queues"
	known, err := s.rdb.SIsMember(ctx, key, queue).Result()
	if err == nil && !known {
		err = s.rdb.SAdd(ctx, key, queue).Err()
	}
	if err != nil {
		return fmt.Errorf("add queue %q to %s: %w", queue, key, explain(err))
	}
	return nil
}

// Queues lists the names of the known queues, in no order.
func (s *Store) Queues(ctx context.Context) ([]string, error) {
	names, err := s.rdb.SMembers(ctx, s.prefix+":queues").Result()
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", explain(err))
	}
	return names, nil
}

type queueKey struct{}

// Bound is what the library's own tasks, which run like any other, have of their runner.
type Bound struct {
	Queue   *Queue
	Runner  string
	Logger  *slog.Logger
	Wake    chan struct{} // capacity 1: something is due, look at once
	Entries []Entry       // of the schedule, as the runner declares them
}

// Entry is an entry of the schedule with the fields of its hash, and when it fires first after a time.
type Entry struct {
	Name   string
	Fields map[string]string
	Next   func(after time.Time) time.Time
}

// WithRunner gives the library's own tasks what they need.
func WithRunner(ctx context.Context, b *Bound) context.Context {
	return context.WithValue(ctx, queueKey{}, b)
}

// FromContext is the reverse of WithRunner.
func FromContext(ctx context.Context) *Bound { return ctx.Value(queueKey{}).(*Bound) }
