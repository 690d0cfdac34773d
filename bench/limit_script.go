package main

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/redis/go-redis/v9"
)

//go:embed limit.lua
var limitSource string

func limitScriptEntrant() entrant {
	return entrant{name: "limit-script", about: "the same transitions by one script, without any safety", only: "^(drain|pick-up|memory|running|idle)$", open: openLimitScript}
}

func openLimitScript(ctx context.Context, addr string, _ int) (system, error) {
	l := newLimit(addr)
	script := redis.NewScript(limitSource)
	if err := script.Load(ctx, l.rdb).Err(); err != nil {
		return nil, err
	}
	keys := []string{limitWait, limitEnded, limitCount}
	l.exchange = func(ctx context.Context, ended, woken []string, want int) ([]claim, bool, error) {
		args := make([]any, 0, 3+len(woken)+len(ended))
		args = append(args, limitTask, want, len(woken))
		for _, id := range woken {
			args = append(args, id)
		}
		for _, id := range ended {
			args = append(args, id)
		}
		reply, err := l.rdb.EvalSha(ctx, script.Hash(), keys, args...).StringSlice()
		if err != nil {
			return nil, false, err
		}
		if len(reply)%2 != 0 {
			return nil, false, fmt.Errorf("limit.lua: %d strings are not pairs", len(reply))
		}
		claims := make([]claim, len(reply)/2)
		for i := range claims {
			claims[i] = claim{reply[2*i], reply[2*i+1]}
		}
		return claims, want > 0 && len(claims) == want, nil
	}
	return l, nil
}
