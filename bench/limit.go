package main

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The limits do what redtask does to a task's record, and nothing for its safety: no fence, no epoch, no lease, no events. What a process
// that dies had is lost, and so is what a lost reply had. They show what the transitions alone cost on the same server.
const (
	limitWait  = "limit:wait"  // list of IDs in line
	limitEnded = "limit:ended" // zset: ID -> when it ended, ms
	limitCount = "limit:count" // hash of counters
	limitTask  = "limit:task:" // and the ID: a hash
)

// limitBatch is how many tasks one call ends, and claims, at most: it holds Redis for less than a millisecond, as redtask's do.
const limitBatch = 64

// limit is a system with the transitions of one of them.
type limit struct {
	rdb *redis.Client
	// exchange ends tasks and claims more, woken ones first, up to a number. more reports that another call may find some in line.
	exchange func(ctx context.Context, ended, woken []string, want int) (claims []claim, more bool, err error)
}

type claim struct{ id, data string }

func newLimit(addr string) *limit { return &limit{rdb: redis.NewClient(&redis.Options{Addr: addr})} }

func (l *limit) start(ctx context.Context, data payload) error {
	return l.startMany(ctx, []payload{data})
}

func (l *limit) startMany(ctx context.Context, data []payload) error {
	ids, now := make([]any, len(data)), strconv.FormatInt(time.Now().UnixMilli(), 10)
	_, err := l.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range data {
			encoded, err := json.Marshal(data[i])
			if err != nil {
				return err
			}
			id := limitID()
			p.HSet(ctx, limitTask+id, "task", redtaskName, "data", encoded, "created_at", now)
			ids[i] = id
		}
		p.LPush(ctx, limitWait, ids...)
		return nil
	})
	return err
}

// limitID is as long, and as random, as redtask's.
func limitID() string {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	var id [15]byte
	high, low := rand.Uint64(), rand.Uint64()
	for i := range id {
		if i == 8 {
			high = low
		}
		id[i] = alphabet[high&31]
		high >>= 5
	}
	return string(id[:])
}

func (l *limit) finished(ctx context.Context) (int, error) {
	n, err := l.rdb.ZCard(ctx, limitEnded).Result()
	return int(n), err
}

func (l *limit) close() error { return l.rdb.Close() }

// work runs the worker. A fault of Redis ends the process: a limit has no other answer.
func (l *limit) work(ctx context.Context, concurrency int, handle handler) (func(), error) {
	w := &limitWorker{limit: l, handle: handle, free: concurrency, wake: make(chan struct{}, 1), idle: make(chan struct{}, 1), hungry: true}
	var parts sync.WaitGroup
	for _, serve := range []func(context.Context) error{w.serve, w.await} {
		parts.Go(func() {
			if err := serve(ctx); err != nil && !errors.Is(err, context.Canceled) {
				panic(err)
			}
		})
	}
	return func() { parts.Wait(); w.tasks.Wait() }, nil
}
