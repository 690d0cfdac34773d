package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"
)

// pollFinished is how often a worker that has handled all its tasks asks whether Redis has their ends.
const pollFinished = 2 * time.Millisecond

// pollSome is how often one asks that has not handled all: seldom, as that is while it works.
const pollSome = 10 * time.Millisecond

// drain runs the tasks that wait in line, and reports how long that took: from the worker's start, with a connection up, until Redis has
// every completion.
func (c *child) drain(ctx context.Context) error {
	if _, err := c.system.finished(ctx); err != nil { // connects
		return err
	}
	handled, all := atomic.Int64{}, make(chan struct{})
	span, err := c.span()
	if err != nil {
		return err
	}
	stop, err := c.work(ctx, func(context.Context, json.RawMessage) error {
		if handled.Add(1) == int64(c.n) {
			close(all)
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer stop()
	select {
	case <-all:
	case <-ctx.Done():
		return nil
	}
	if _, err := c.awaitFinished(ctx, pollFinished); err != nil {
		return err
	}
	return c.sayEnd(span, eventDone)
}

// drainSome is drain where others take from the same line, or the line is longer than what is measured: it asks Redis all along, and
// reports how many tasks were finished at its end. It begins at a word, with a connection up.
func (c *child) drainSome(ctx context.Context) error {
	if _, err := c.system.finished(ctx); err != nil {
		return err
	}
	c.say(report{Event: eventUp})
	if !c.heard(wordGo) {
		return nil
	}
	span, err := c.span()
	if err != nil {
		return err
	}
	stop, err := c.work(ctx, func(context.Context, json.RawMessage) error { return nil })
	if err != nil {
		return err
	}
	defer stop()
	n, err := c.awaitFinished(ctx, pollSome)
	if err != nil {
		return err
	}
	r, err := span.end(eventDone)
	if err == nil {
		r.Count = n
		c.say(r)
	}
	return err
}

func (c *child) work(ctx context.Context, handle handler) (stop func(), err error) {
	working, cancel := context.WithCancel(ctx)
	wait, err := c.system.work(working, c.concurrency, handle)
	if err != nil {
		cancel()
		return nil, err
	}
	return func() { cancel(); wait() }, nil
}

// awaitFinished returns how many tasks are finished once that is enough.
func (c *child) awaitFinished(ctx context.Context, poll time.Duration) (int, error) {
	for {
		n, err := c.system.finished(ctx)
		if err != nil {
			return 0, fmt.Errorf("count finished tasks: %w", err)
		}
		if n >= c.n {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(poll):
		}
	}
}

func (c *child) sayEnd(s *span, event string) error {
	r, err := s.end(event)
	if err == nil {
		c.say(r)
	}
	return err
}

// hold runs tasks that do not end by themselves: it reports when it is up, when all of them run, and its memory whenever it is asked.
func (c *child) hold(ctx context.Context) error {
	running, all := atomic.Int64{}, make(chan struct{})
	span, err := c.span()
	if err != nil {
		return err
	}
	stop, err := c.work(ctx, func(ctx context.Context, _ json.RawMessage) error {
		if running.Add(1) == int64(c.n) {
			close(all)
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	defer stop()
	if err := c.sayEnd(span, eventUp); err != nil {
		return err
	}
	if c.n > 0 {
		select {
		case <-all:
		case <-ctx.Done():
			return nil
		}
		if err := c.sayEnd(span, eventAll); err != nil {
			return err
		}
	}
	for c.heard(wordNext) {
		if err := c.sayEnd(span, eventDone); err != nil {
			return err
		}
	}
	return nil
}

// tellLatencies reports for each task how long ago its data says that it was sent, or due.
func (c *child) tellLatencies(ctx context.Context) error {
	stop, err := c.work(ctx, func(_ context.Context, data json.RawMessage) error {
		began := time.Now().UnixNano()
		var p payload
		if err := json.Unmarshal(data, &p); err != nil {
			c.say(report{Error: fmt.Sprintf("data of a task: %v: %s", err, data)})
			return err
		}
		c.say(report{Event: eventHandled, Latency: float64(began-p.Sent) / 1e6, Count: p.I})
		return nil
	})
	if err != nil {
		return err
	}
	defer stop()
	c.say(report{Event: eventUp})
	c.heard(wordEnd)
	return nil
}
