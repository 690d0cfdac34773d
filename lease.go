package redtask

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// lease keeps this runner's right to its tasks in a queue: one entry in Redis, however many tasks run.
type lease struct {
	engine *engine
	check  chan struct{} // capacity 1: look at once

	mu     sync.Mutex
	held   bool          // Redis has our entry, as far as we know
	sent   time.Time     // when the last good renewal was sent: from then on the lease counts
	fence  *time.Timer   // cancels the tasks before others may take them over
	change chan struct{} // closed when held changes
}

func newLease(e *engine) *lease {
	return &lease{engine: e, check: make(chan struct{}, 1), change: make(chan struct{})}
}

func (l *lease) isHeld() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// fresh reports whether enough of the lease is left to claim more.
func (l *lease) fresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held && time.Since(l.sent) < l.engine.options.claimsFor()
}

// ranOut reports whether the fence has fallen.
func (l *lease) ranOut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.engine.options
	return !l.held || time.Since(l.sent) >= o.Lease-o.SafetyMargin
}

// await waits until the lease is held.
func (l *lease) await(ctx context.Context) error {
	for {
		l.mu.Lock()
		held, change := l.held, l.change
		l.mu.Unlock()
		if held {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (l *lease) set(held bool, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fence != nil {
		l.fence.Stop()
	}
	if held {
		l.sent = sent
		left := l.engine.options.Lease - l.engine.options.SafetyMargin - time.Since(sent)
		l.fence = time.AfterFunc(left, l.ranLow)
	}
	if held != l.held {
		l.held = held
		close(l.change)
		l.change = make(chan struct{})
	}
}

// ranLow: no renewal reached Redis for so long that others may soon take over. What runs here ends before that.
func (l *lease) ranLow() {
	l.engine.logger.Error("could not renew the lease in time: all tasks of this queue are cancelled here, they go on elsewhere",
		"last_renewal", l.lastSent())
	l.engine.loseAll()
	call(l.engine.options.hooks.fenced, l.engine.queue.Name())
}

func (l *lease) lastSent() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// lost: Redis says that the lease is gone.
func (l *lease) lost() {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if !held {
		return
	}
	l.set(false, time.Time{})
	l.engine.logger.Error("the lease is gone from redis: all tasks of this queue are cancelled here; the runner registers anew")
	l.engine.loseAll()
	select {
	case l.check <- struct{}{}:
	default:
	}
}

// Serve registers and renews until ctx ends. It is the last of the engine's parts to stop.
func (l *lease) Serve(ctx context.Context) {
	defer l.stopFence()
	for failures, mismatches := 0, 0; ; {
		err := l.step(ctx, &mismatches)
		wait := l.engine.options.RenewInterval
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, ErrProtocol) {
				l.engine.fail(public(err))
				return
			}
			if failures == 0 {
				l.logFailure(err)
			}
			wait = min(wait, backoff(failures))
			failures++
		} else {
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.check:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (l *lease) logFailure(err error) {
	if l.isHeld() {
		l.engine.logger.Warn("could not renew the lease; it is tried again", "last_renewal", l.lastSent(), "error", err)
		return
	}
	l.engine.logger.Warn("the runner takes no tasks yet: it could not register in redis; it is tried again", "error", err)
}

// stopFence leaves the fence to tasks that a shutdown left behind: they too must end before others take them over.
func (l *lease) stopFence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fence != nil && l.engine.owned() == 0 {
		l.fence.Stop()
	}
}

func (l *lease) step(ctx context.Context, mismatches *int) error {
	if !l.isHeld() {
		return l.register(ctx)
	}
	return l.renew(ctx, mismatches)
}

func (l *lease) register(ctx context.Context) error {
	e := l.engine
	if err := e.announce(ctx); err != nil {
		return err
	}
	info := e.info
	info.Batch = e.committer.closeBatches()
	sent := time.Now()
	ok, now, err := e.queue.Register(ctx, &info)
	if err != nil {
		return err
	}
	if !ok {
		return l.finishTakeover(ctx)
	}
	e.setClock(now)
	l.set(true, sent)
	e.committer.mustReconcile()
	e.committer.lookAgain()
	e.logger.Info("the runner takes tasks", "concurrency", e.concurrency, "lease", e.options.Lease)
	call(e.options.hooks.registered, e.queue.Name())
	return nil
}

// finishTakeover helps whoever takes over what this runner had: should that one have died meanwhile, nobody else may be left to.
func (l *lease) finishTakeover(ctx context.Context) error {
	recovery := store.DefaultRecovery()
	for {
		done, err := l.engine.queue.TakeOver(ctx, l.engine.runnerID, &recovery)
		if err != nil {
			return err
		}
		if done.Renewed || done.Left == 0 {
			return l.register(ctx)
		}
	}
}

func (l *lease) renew(ctx context.Context, mismatches *int) error {
	e := l.engine
	sent := time.Now()
	renewal, err := e.queue.Renew(ctx, e.runnerID, e.options.Lease)
	if err != nil {
		return err
	}
	if !renewal.Held {
		l.lost()
		return nil
	}
	e.setClock(renewal.Now)
	l.set(true, sent)
	e.committer.lookIfPaused() // and claims may have waited for a fresh lease
	e.promoter.dueAt(renewal.NextDue)
	if renewal.Intents > 0 {
		e.readIntents(ctx)
	}
	// Under load the counts differ for a moment; twice in a row is worth a look.
	if renewal.Owned == e.owned() {
		*mismatches = 0
	} else if *mismatches++; *mismatches >= 2 {
		*mismatches = 0
		e.committer.mustReconcile()
	}
	call(e.options.hooks.renewed, e.queue.Name())
	return nil
}
