package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

func limitPipelineEntrant() entrant {
	return entrant{name: "limit-pipeline", about: "the same transitions by a pipeline, without any safety", only: "^(drain|start|bulk)$", open: openLimitPipeline}
}

func openLimitPipeline(_ context.Context, addr string, _ int) (system, error) {
	l := newLimit(addr)
	p := &pipeline{rdb: l.rdb}
	l.exchange = p.exchange
	return l, nil
}

// pipeline does the transitions with plain commands, all that are due in one round trip. What was taken from the line in one trip is claimed
// with the next: only then are the IDs known.
type pipeline struct {
	rdb   *redis.Client
	taken []string
}

func (p *pipeline) exchange(ctx context.Context, ended, woken []string, want int) ([]claim, bool, error) {
	now := strconv.FormatInt(time.Now().UnixMilli(), 10)
	taken := slices.Concat(p.taken, woken)
	data := make([]*redis.StringCmd, len(taken))
	var popped *redis.StringSliceCmd
	_, err := p.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		endAll(ctx, pipe, ended, now)
		for i, id := range taken {
			pipe.HSet(ctx, limitTask+id, "state", "RUNNING", "started_at", now)
			data[i] = pipe.HGet(ctx, limitTask+id, "data")
		}
		if want > len(taken) {
			popped = pipe.RPopCount(ctx, limitWait, want-len(taken))
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) { // Nil: the line is empty
		return nil, false, err
	}
	claims := make([]claim, len(taken))
	for i, id := range taken {
		claims[i] = claim{id, data[i].Val()}
	}
	p.taken = nil
	if popped == nil {
		return claims, want > 0, nil // it was not looked
	}
	p.taken = popped.Val()
	return claims, len(p.taken) > 0, nil
}

func endAll(ctx context.Context, pipe redis.Pipeliner, ended []string, now string) {
	if len(ended) == 0 {
		return
	}
	score, _ := strconv.ParseFloat(now, 64) // it is a number
	scores := make([]redis.Z, len(ended))
	for i, id := range ended {
		pipe.HSet(ctx, limitTask+id, "state", "ENDED", "ended_at", now)
		scores[i] = redis.Z{Score: score, Member: id}
	}
	pipe.ZAdd(ctx, limitEnded, scores...)
	pipe.HIncrBy(ctx, limitCount, "ended", int64(len(ended)))
}
