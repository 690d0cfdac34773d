package main

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"
)

// emitEvents runs n tasks, and lets each of them emit when it is told to. It reports how long it took from then until Redis has the ends of
// all: a task's end is written after its last event is published.
func (c *child) emitEvents(ctx context.Context) error {
	e, ok := c.system.(emitter)
	if !ok {
		return errUnsupported
	}
	running, all, begin := atomic.Int64{}, make(chan struct{}), make(chan struct{})
	stop, err := c.work(ctx, func(ctx context.Context, _ json.RawMessage) error {
		if running.Add(1) == int64(c.n) {
			close(all)
		}
		select {
		case <-begin:
		case <-ctx.Done():
			return ctx.Err()
		}
		for i := range c.events {
			if err := e.emit(ctx, i); err != nil {
				return err
			}
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
	c.say(report{Event: eventAll})
	if !c.heard(wordGo) {
		return nil
	}
	span, err := c.span()
	if err != nil {
		return err
	}
	close(begin)
	if _, err := c.awaitFinished(ctx, pollFinished); err != nil {
		return err
	}
	return c.sayEnd(span, eventDone)
}

// quiet is after how long without an event a watcher that is told to end does.
const quiet = 300 * time.Millisecond

// countEvents counts what a watcher of all tasks gets.
func (c *child) countEvents(ctx context.Context) error {
	e, ok := c.system.(emitter)
	if !ok {
		return errUnsupported
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := e.watch(ctx)
	if err != nil {
		return err
	}
	span, err := c.span()
	if err != nil {
		return err
	}
	var latest atomic.Int64
	go c.endWhenQuiet(&latest, cancel)
	c.say(report{Event: eventUp})
	tally := newTally()
	for event := range events {
		now := time.Now()
		latest.Store(now.UnixNano())
		tally.add(event, now)
	}
	r, err := span.end(eventDone)
	if err != nil {
		return err
	}
	r.Count, r.Lost, r.Disordered, r.Gaps, r.Ended = tally.received, tally.lost, tally.disordered, tally.gaps, tally.ended
	r.Seconds = tally.last.Sub(tally.first).Seconds()
	c.say(r)
	return nil
}

func (c *child) endWhenQuiet(latest *atomic.Int64, end func()) {
	defer end()
	c.heard(wordGo)
	for time.Since(time.Unix(0, latest.Load())) < quiet {
		time.Sleep(quiet / 10)
	}
}

// tally counts the events of tasks' own, and checks that those of each task come in order and without a hole.
type tally struct {
	received, lost, disordered, ended, gaps int

	first, last time.Time
	seq         map[string]int64 // of each task's latest event
}

func newTally() *tally { return &tally{seq: map[string]int64{}} }

func (t *tally) add(event seen, now time.Time) {
	if event.gap {
		t.gaps++
		return
	}
	last := t.seq[event.id]
	switch {
	case event.seq <= last:
		t.disordered++
	case last != 0:
		t.lost += int(event.seq - last - 1)
	}
	t.seq[event.id] = max(last, event.seq)
	if event.end {
		t.ended++
	}
	if !event.own {
		return
	}
	if t.received == 0 {
		t.first = now
	}
	t.received, t.last = t.received+1, now
}
