package main

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultText = "hello world"
	defaultSize = 0       // of `{"i":n,"text":"hello world"}`
	bulkSize    = 1000    // tasks a call
	bulkBytes   = 4 << 20 // of data a call, whichever is less
)

// newPayload has the data of task i, of so many bytes as JSON; 0 is as it comes.
func newPayload(i, size int) payload {
	if size == 0 {
		return payload{I: i, Text: defaultText}
	}
	frame := len(`{"i":,"text":""}`) + digits(i)
	return payload{I: i, Text: strings.Repeat("x", max(0, size-frame))}
}

func digits(i int) int {
	n := 1
	for i >= 10 {
		i /= 10
		n++
	}
	return n
}

// startAll starts n tasks from a number of goroutines, one by one in each.
func (c *child) startAll(ctx context.Context) error {
	if err := c.system.start(ctx, newPayload(0, c.size)); err != nil { // connects, and is one of the n
		return err
	}
	span, err := c.span()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var producers sync.WaitGroup
	var next atomic.Int64
	for range c.concurrency {
		producers.Go(func() {
			for i := next.Add(1); i < int64(c.n) && ctx.Err() == nil; i = next.Add(1) {
				if err := c.system.start(ctx, newPayload(int(i), c.size)); err != nil {
					cancel(err)
				}
			}
		})
	}
	producers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.sayStarted(span, c.n-1)
}

// startBulk starts n tasks from one goroutine, bulkSize a call or fewer that are large.
func (c *child) startBulk(ctx context.Context) error {
	bulk, ok := c.system.(bulkStarter)
	if !ok {
		return errUnsupported
	}
	if err := c.system.start(ctx, newPayload(0, c.size)); err != nil {
		return err
	}
	span, err := c.span()
	if err != nil {
		return err
	}
	most := min(bulkSize, bulkBytes/max(c.size, 1))
	for from := 1; from < c.n; from += most {
		batch := make([]payload, min(most, c.n-from))
		for i := range batch {
			batch[i] = newPayload(from+i, c.size)
		}
		if err := bulk.startMany(ctx, batch); err != nil {
			return err
		}
	}
	return c.sayStarted(span, c.n-1)
}

func (c *child) sayStarted(s *span, n int) error {
	r, err := s.end(eventDone)
	if err != nil {
		return err
	}
	r.Count = n
	c.say(r)
	return nil
}

const shortestPause, longestPause = 5 * time.Millisecond, 50 * time.Millisecond

// startOnDemand starts a task whenever it is told, a while later: the worker is idle then.
func (c *child) startOnDemand(ctx context.Context) error {
	c.say(report{Event: eventUp})
	for i := 0; c.heard(wordNext); i++ {
		time.Sleep(shortestPause + rand.N(longestPause-shortestPause))
		data := newPayload(i, c.size)
		data.Sent = time.Now().UnixNano()
		if err := c.system.start(ctx, data); err != nil {
			return err
		}
	}
	return nil
}

// The due times of delayed tasks are spread over a while. The first is so far off that a worker which asks now and then has asked.
const (
	delayedAfter  = 6 * time.Second
	delayedSpread = 3 * time.Second
)

// startDelayed starts n tasks at times to come.
func (c *child) startDelayed(ctx context.Context) error {
	d, ok := c.system.(delayer)
	if !ok {
		return errUnsupported
	}
	began := time.Now().Add(delayedAfter)
	for i := range c.n {
		due := began.Add(rand.N(delayedSpread)).Truncate(time.Millisecond)
		data := newPayload(i, c.size)
		data.Sent = due.UnixNano()
		if err := d.startAt(ctx, due, data); err != nil {
			return err
		}
	}
	c.say(report{Event: eventDone})
	return nil
}
