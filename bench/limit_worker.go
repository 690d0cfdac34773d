package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// limitWorker runs each task in a goroutine, and sends what ended in batches: while a call is under way the next batch collects.
type limitWorker struct {
	limit  *limit
	handle handler
	wake   chan struct{} // capacity 1: there is something to send
	idle   chan struct{} // capacity 1: the line is empty, wait for work
	tasks  sync.WaitGroup

	mu     sync.Mutex
	ended  []string
	woken  []string
	free   int
	hungry bool // IDs may be in line
}

// serve exchanges one batch after the other.
func (w *limitWorker) serve(ctx context.Context) error {
	for {
		ended, woken, want := w.collect()
		if len(ended) == 0 && want == 0 {
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		claims, more, err := w.limit.exchange(ctx, ended, woken, want)
		if err != nil {
			return err
		}
		w.launch(ctx, claims, more, want)
	}
}

func (w *limitWorker) collect() (ended, woken []string, want int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.ended), limitBatch)
	ended, w.ended = w.ended[:n:n], w.ended[n:]
	if w.hungry {
		want = min(w.free, limitBatch)
	}
	if want > 0 {
		woken, w.woken, w.hungry = w.woken, nil, false
	}
	return ended, woken, want
}

func (w *limitWorker) launch(ctx context.Context, claims []claim, more bool, want int) {
	w.mu.Lock()
	w.free -= len(claims)
	w.hungry = w.hungry || more
	full := w.free == 0
	w.mu.Unlock()
	for _, c := range claims {
		w.tasks.Go(func() { w.run(ctx, c) })
	}
	if want > 0 && !more && !full {
		poke(w.idle)
	}
}

func (w *limitWorker) run(ctx context.Context, c claim) {
	_ = w.handle(ctx, json.RawMessage(c.data)) // the handlers of the bench end well, or with the process
	w.mu.Lock()
	w.ended = append(w.ended, c.id)
	w.free++
	w.mu.Unlock()
	poke(w.wake)
}

// await takes an ID as soon as one is in line, on a connection of its own.
func (w *limitWorker) await(ctx context.Context) error {
	for {
		select {
		case <-w.idle:
		case <-ctx.Done():
			return nil
		}
		found, err := w.limit.rdb.BRPop(ctx, 5*time.Second, limitWait).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		w.mu.Lock()
		w.hungry = true
		if len(found) == 2 {
			w.woken = append(w.woken, found[1])
		}
		w.mu.Unlock()
		poke(w.wake)
	}
}

func poke(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}
