package main

import (
	"context"

	"github.com/redis/go-redis/v9"
)

func limitEvalshaEntrant() entrant {
	return entrant{name: "limit-evalsha", about: "EVALSHA of an empty script: bare round trips", only: "^start$", open: openLimitEvalsha}
}

// roundTrips is a system that puts nothing in line: a start is a call of a script that does nothing.
type roundTrips struct {
	rdb  *redis.Client
	hash string
}

func openLimitEvalsha(ctx context.Context, addr string, _ int) (system, error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	script := redis.NewScript("return 1")
	return &roundTrips{rdb, script.Hash()}, script.Load(ctx, rdb).Err()
}

func (r *roundTrips) start(ctx context.Context, _ payload) error {
	return r.rdb.EvalSha(ctx, r.hash, nil).Err()
}

func (r *roundTrips) work(context.Context, int, handler) (func(), error) { return nil, errUnsupported }
func (r *roundTrips) finished(context.Context) (int, error)              { return 0, errUnsupported }
func (r *roundTrips) close() error                                       { return r.rdb.Close() }
