package redtask

import (
	"context"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// fetcher waits in Redis, on a connection of its own, while the line is empty. The ID that wakes it is in this runner's inbox, where
// the next claim takes it from.
type fetcher struct {
	engine *engine
	idle   chan struct{} // capacity 1: the line is empty, wait for work
	waited bool          // a call was sent; read after Serve returned
	cutAt  time.Time     // when a call was last cut off: the server may not know yet, and still move an ID. Read after Serve returned
}

func newFetcher(e *engine) *fetcher { return &fetcher{engine: e, idle: make(chan struct{}, 1)} }

// await asks for a signal when tasks are in line.
func (f *fetcher) await() {
	select {
	case f.idle <- struct{}{}:
	default:
	}
}

// busy takes a signal back: a claim is under way that will give one of its own.
func (f *fetcher) busy() {
	select {
	case <-f.idle:
	default:
	}
}

// open reports whether an ID may still arrive in the inbox; only after Serve returned.
func (f *fetcher) open() bool {
	return !f.cutAt.IsZero() && time.Since(f.cutAt) < f.engine.options.blocksFor()+time.Second
}

// Serve runs until ctx ends.
func (f *fetcher) Serve(ctx context.Context) {
	for attempt := 0; ; attempt++ {
		blocker, err := f.engine.queue.NewBlocker(ctx, f.engine.runnerID)
		if err == nil {
			var answered bool
			if answered, err = f.serve(ctx, blocker); answered {
				attempt = 0 // not before: a server may take the connection and refuse the call
			}
			_ = blocker.Close() // what failed was said already
		}
		if ctx.Err() != nil {
			return
		}
		if attempt == 0 {
			f.engine.logger.Warn("cannot wait for tasks; it is tried again", "error", err)
		}
		f.engine.committer.woken() // the cut-off call may have moved an ID
		if !pause(ctx, backoff(attempt)) {
			return
		}
	}
}

// serve waits again and again until a call fails, and reports whether one before was answered.
func (f *fetcher) serve(ctx context.Context, blocker *store.Blocker) (answered bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return answered, nil
		case <-f.idle:
		}
		if f.engine.free.Load() <= 0 || !f.engine.mayClaim() { // an ID taken now would wait for a slot, or for the lease, here
			f.engine.committer.lookAgain()
			continue
		}
		f.waited = true
		call(f.engine.options.hooks.idle, f.engine.queue.Name())
		found, err := f.wait(ctx, blocker)
		if err != nil {
			return answered, err
		}
		answered = true
		switch {
		case found:
			f.engine.committer.woken()
		case f.cutAt.IsZero():
			f.await() // the line was empty all the time: the next call is the slow poll behind the push
		default:
			f.engine.committer.lookAgain() // a server that did not know of a cut may have moved an ID since
		}
	}
}

// wait blocks until work is there. When ctx ends it asks the server to end the call, so that the answer says for certain whether an ID
// was moved, and cuts the connection if that does not work.
func (f *fetcher) wait(ctx context.Context, blocker *store.Blocker) (bool, error) {
	returned := make(chan struct{})
	interrupted := make(chan struct{})
	go func() {
		defer close(interrupted)
		select {
		case <-returned:
		case <-ctx.Done():
			f.interrupt(blocker, returned)
		}
	}()
	found, err := blocker.Wait(context.WithoutCancel(ctx), f.engine.options.blocksFor())
	close(returned)
	<-interrupted
	if err != nil {
		f.cutAt = time.Now()
	}
	return found, err
}

func (f *fetcher) interrupt(blocker *store.Blocker, returned <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	// Again and again, because the first may come just before the call blocks.
	for blocker.Interrupt(ctx) {
		select {
		case <-returned:
			return
		case <-tick.C:
		}
	}
	_ = blocker.Close() // the blocked call returns with the error of this
}
