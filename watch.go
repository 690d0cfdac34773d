package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/redtask/redtask/internal/store"
)

const watchBuffer = 1024

// Watch returns the events of one task from now on, in order, once Redis has confirmed that it will send them: an event after that is
// not missed. The loop ends after the task's final event, or with ctx. If the task is final already, that is the only event; if it
// does not exist yet, Watch waits for it.
//
//	events, err := client.Watch(ctx, id)
//	for event := range events { // check err first
//		fmt.Println(event)
//	}
//
// To miss nothing of a task, watch an ID of your own and then start it with [Client.StartWith].
//
// Watch reconnects by itself. Where events may be missing, after that or because the loop was too slow for its buffer of 1,024 events,
// it yields [EventGap]. The events may be ranged over once; leaving the loop or the end of ctx frees the connection. ctx.Err tells
// a loop that ctx ended.
func (c *Client) Watch(ctx context.Context, id string) (iter.Seq[Event], error) {
	if err := c.check(id); err != nil {
		return nil, err
	}
	return c.watch(ctx, id)
}

// WatchQueue is [Client.Watch] for all tasks of the queue. Its loop ends with ctx only.
func (c *Client) WatchQueue(ctx context.Context) (iter.Seq[Event], error) {
	if c.fault != nil {
		return nil, c.fault
	}
	return c.watch(ctx, "")
}

func (c *Client) watch(ctx context.Context, id string) (iter.Seq[Event], error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{queue: c.queue, id: id, events: make(chan Event, watchBuffer), seen: map[string]position{}}
	subscription, err := c.queue.SubscribeEvents(ctx, id)
	if err != nil {
		cancel()
		return nil, public(err)
	}
	go func() {
		defer close(w.events)
		w.serve(ctx, subscription)
	}()
	return func(yield func(Event) bool) {
		defer cancel()
		for event := range w.events {
			if !yield(event) || id != "" && event.final() {
				break
			}
		}
		cancel()
		for range w.events { // until the watcher has ended: whoever leaves the loop leaves no goroutine
		}
	}, nil
}

// watcher reads one subscription after the other into a bounded buffer: it must never stop reading, since the server would keep what is
// unread.
type watcher struct {
	queue  *store.Queue
	id     string
	events chan Event
	seen   map[string]position // of a single task, or of all of a queue that are not final, and those in finals
	finals []position          // of the last tasks of a queue that became final, in a ring; the oldest is at the place of the next
	next   int
	known  bool // the single task has had a record
	lost   bool // an event did not fit in the buffer
}

// position is the last event seen of a task.
type position struct {
	id         string
	epoch, seq int64
	final      bool
}

func (w *watcher) serve(ctx context.Context, subscription *store.Subscription) {
	last, err := w.settle(ctx, subscription)
	for last == nil {
		if err == nil {
			last, _ = w.read(ctx, subscription) // what failed shows again below
		}
		if last != nil || ctx.Err() != nil {
			break
		}
		_ = subscription.Close() // what failed is why we are here
		if subscription = w.reconnect(ctx); subscription == nil {
			return
		}
		clear(w.seen)
		w.put(Event{Name: EventGap, ID: w.id, Data: json.RawMessage("null"), At: time.Now().UnixMilli()})
		last, err = w.settle(ctx, subscription)
	}
	_ = subscription.Close() // it is not read any more
	if last == nil {
		return
	}
	if w.lost {
		w.deliver(ctx, gapBefore(last))
	}
	w.deliver(ctx, *last)
}

// deliver waits for room: the end must not be lost in a full buffer, and by then nothing is held up by waiting.
func (w *watcher) deliver(ctx context.Context, event Event) {
	select {
	case w.events <- event:
	case <-ctx.Done():
	}
}

func gapBefore(event *Event) Event {
	return Event{Name: EventGap, ID: event.ID, Data: json.RawMessage("null"), At: event.At}
}

func (w *watcher) reconnect(ctx context.Context) *store.Subscription {
	return subscribeAgain(ctx, func() (*store.Subscription, error) { return w.queue.SubscribeEvents(ctx, w.id) })
}

// subscribeAgain tries until it works; nil when ctx has ended.
func subscribeAgain(ctx context.Context, subscribe func() (*store.Subscription, error)) *store.Subscription {
	for attempt := 0; pause(ctx, backoff(attempt)); attempt++ {
		subscription, err := subscribe()
		if err == nil {
			return subscription
		}
	}
	return nil
}

// read returns the final event of a single task.
func (w *watcher) read(ctx context.Context, subscription *store.Subscription) (*Event, error) {
	for {
		message, err := subscription.Next(ctx)
		var last *Event
		switch {
		case err != nil:
		case message == nil: // silence: look whether the end was missed
			last, err = w.settle(ctx, subscription)
		default:
			last = w.take(message.Payload)
		}
		if last != nil || err != nil {
			return last, err
		}
	}
}

// take puts an event into the buffer; the final one of a single task is returned instead.
func (w *watcher) take(payload string) *Event {
	var event Event
	if json.Unmarshal([]byte(payload), &event) != nil || event.Name == "" || w.repeated(&event) {
		return nil // not one of ours, since anyone may publish; or seen before
	}
	if w.id != "" && event.final() {
		return &event
	}
	w.put(event)
	return nil
}

// settle returns the final event of a single task that is final in Redis. Events from before that may still be on their way: what the
// server sent before it answers the ping comes first.
func (w *watcher) settle(ctx context.Context, subscription *store.Subscription) (*Event, error) {
	last := w.checkRecord(ctx)
	if last == nil {
		return nil, nil
	}
	if err := subscription.Ping(ctx); err != nil {
		return nil, err
	}
	for {
		message, err := subscription.Next(ctx)
		if err != nil {
			return nil, err
		}
		if message == nil {
			return w.unlessOvertaken(last), nil
		}
		if event := w.take(message.Payload); event != nil {
			return event, nil
		}
	}
}

// unlessOvertaken drops a final event that a later run has followed.
func (w *watcher) unlessOvertaken(last *Event) *Event {
	if w.seen[w.id].epoch > last.Epoch {
		return nil
	}
	return last
}

// repeated drops what was published twice because a reply was lost, and what comes late from another node of a Cluster; it marks holes.
func (w *watcher) repeated(event *Event) bool {
	last, known := w.seen[event.ID]
	emptied := last.final && event.Seq == 1 && event.Epoch < last.epoch // Redis was, and counts epochs from 1 again
	if event.Epoch < last.epoch && !emptied || event.Epoch == last.epoch && event.Seq <= last.seq {
		return event.Epoch != 0 // an event without an epoch is not ours to judge
	}
	if known && (event.Epoch == last.epoch && event.Seq != last.seq+1 || event.Epoch > last.epoch && event.Seq > 1) {
		w.lost = true
	}
	now := position{id: event.ID, epoch: event.Epoch, seq: event.Seq, final: event.final()}
	w.seen[event.ID] = now
	if now.final && w.id == "" {
		w.forgetLater(now)
	}
	return false
}

// forgetLater keeps the position of a final task while others become final: its last events may come once more, or late.
func (w *watcher) forgetLater(p position) {
	if len(w.finals) < watchBuffer {
		w.finals = append(w.finals, p)
		return
	}
	if oldest := w.finals[w.next]; w.seen[oldest.id] == oldest { // it has not run again
		delete(w.seen, oldest.id)
	}
	w.finals[w.next] = p
	w.next = (w.next + 1) % watchBuffer
}

// put never blocks: a full buffer loses the event and shows a gap as soon as there is room.
func (w *watcher) put(event Event) {
	if w.lost && len(w.events) < cap(w.events)-1 {
		w.lost = false
		w.events <- gapBefore(&event)
	}
	select {
	case w.events <- event:
	default:
		w.lost = true
	}
}

// checkRecord returns the final event of a single task that is final in Redis: it may have come before the watch, or been lost.
func (w *watcher) checkRecord(ctx context.Context) *Event {
	if w.id == "" {
		return nil
	}
	hash, err := w.queue.Get(ctx, w.id)
	if errors.Is(err, ErrNotFound) {
		if _, seen := w.seen[w.id]; seen || w.known {
			return &Event{Name: EventRemoved, ID: w.id, Data: json.RawMessage("null"), At: time.Now().UnixMilli()}
		}
		return nil // it may come yet
	}
	if err != nil {
		return nil // Redis is away: the subscription will say so
	}
	w.known = true
	return finalEvent(newRecord(w.queue.Name(), w.id, hash))
}

// finalEvent makes the event of a final record again; nil if it is not final.
func finalEvent(r *Record) *Event {
	if !r.State.Final() {
		return nil
	}
	event := &Event{
		Name: strings.ToLower(string(r.State)), ID: r.ID, Task: r.Task, Epoch: r.Epoch, At: r.EndedAt.UnixMilli(), Data: json.RawMessage("null"),
	}
	switch {
	case r.State == StateEnded && r.Output != nil:
		event.Data = r.Output
	case r.State == StateError || r.State == StateException:
		event.Data = errorData(r.Error)
	}
	return event
}

// String is for people: `12:00:00.000 42 app/hello ended "hi"`.
func (e Event) String() string {
	return fmt.Sprintf("%s %s %s %s %s", e.Time().Format("15:04:05.000"), e.ID, e.Task, e.Name, e.Data)
}
