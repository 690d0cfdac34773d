package redtasktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redtask/redtask"
)

// Run starts a task and waits until it is final. What it returns has all of the task's events, in order. For a task with an ID of its
// own, or other options, use Client.StartWith and [Harness.Collect].
func (h *Harness) Run(task string, data any) *Result {
	h.t.Helper()
	if h.Runner == nil {
		h.t.Fatalf("redtasktest: Run of task %s: this harness is idle and has no runner: leave out Options.Idle", task)
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.patience())
	defer cancel()
	id, err := h.Client.Start(ctx, task, data)
	if err != nil {
		h.t.Fatalf("redtasktest: %v", err)
	}
	return h.Collect(id)
}

// Collect waits until a task is final and returns its record and events, from the harness's start on or, in a queue that the runner does
// not serve, from [Harness.ForQueue].
func (h *Harness) Collect(id string) *Result {
	h.t.Helper()
	record, events := h.wait(id, "is not final", func(Events) bool { return false })
	return &Result{Record: record, Events: events, t: h.t, h: h}
}

// Watch goes through the events of a task, beginning with the oldest, before or while they happen.
func (h *Harness) Watch(id string) *Watch { return &Watch{h: h, id: id} }

// Watch is a place in the events of one task.
type Watch struct {
	h    *Harness
	id   string
	next int
}

// Next waits for the next event of that name, and skips those before it. The test fails if the task ends without.
func (w *Watch) Next(name string) redtask.Event {
	w.h.t.Helper()
	var found *redtask.Event
	record, events := w.h.wait(w.id, fmt.Sprintf("has not emitted %q", name), func(events Events) bool {
		for ; found == nil && w.next < len(events); w.next++ {
			if events[w.next].Name == name {
				found = &events[w.next]
			}
		}
		return found != nil
	})
	if found == nil {
		w.h.t.Fatalf("redtasktest: %s, without a further event %q%s", summary(w.id, record), name, events.listing())
	}
	return *found
}

// slowPoll is a safety net: a task's end is usually learned from its last event.
const slowPoll = time.Second

// wait returns when reached accepts the task's events, or the task is final and all its events are here; record is nil in the first
// case, and if the task was removed.
func (h *Harness) wait(id, fault string, reached func(Events) bool) (*redtask.Record, Events) {
	h.t.Helper()
	patience := h.patience()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	poll := time.NewTicker(slowPoll)
	defer poll.Stop()
	polled, overdue := false, 0
	for {
		events, changed := h.recorder.of(h.Client.Queue(), id)
		if reached(events) {
			return nil, events
		}
		if polled || events.end() != nil {
			record, err := h.Client.Get(ctx, id)
			if settled(record, err, events.end()) {
				return record, events
			}
			if polled && err == nil && record.State.Final() {
				overdue++
			}
			if overdue > 2 { // the last events were lost: the connection that brings them was cut, say
				return record, append(events, redtask.Event{Name: redtask.EventGap, ID: id, At: time.Now().UnixMilli()})
			}
		}
		polled = false
		select {
		case <-changed:
		case <-poll.C:
			polled = true
		case <-ctx.Done():
			h.t.Fatalf("redtasktest: task %q %s after %s: %s", id, fault, patience.Round(time.Millisecond), h.explain(id, events))
		}
	}
}

// settled reports whether a task is final and end, its last event, belongs to that: not to a run before somebody restarted it.
func settled(record *redtask.Record, err error, end *redtask.Event) bool {
	switch {
	case end == nil:
		return false
	case errors.Is(err, redtask.ErrNotFound):
		return end.Name == redtask.EventRemoved
	}
	return err == nil && record.State.Final() && end.Epoch >= record.Epoch
}

// explain says all that helps to find out why a task does not come to its end.
func (h *Harness) explain(id string, events Events) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	record, err := h.Client.Get(ctx, id)
	text := summary(id, record)
	switch {
	case errors.Is(err, redtask.ErrNotFound):
		text = fmt.Sprintf("there is no such task in queue %q", h.Client.Queue())
	case err != nil:
		text = err.Error()
	case h.Runner == nil:
		text += "; this harness is idle: nothing runs"
	}
	text += "\nrunning:"
	page, err := h.Client.List(ctx, redtask.ListOptions{State: redtask.StateRunning})
	switch {
	case err != nil:
		text += " unknown: " + err.Error()
	case len(page.Tasks) == 0:
		text += " nothing"
	default:
		for _, task := range page.Tasks {
			text += "\n    " + summary(task.ID, task)
		}
	}
	text += events.listing()
	if log := h.log.take(); log != "" {
		text += "\nthe runner's log:\n" + log
	}
	return text
}

func summary(id string, record *redtask.Record) string {
	if record == nil {
		return fmt.Sprintf("task %q is gone", id)
	}
	text := fmt.Sprintf("task %s, ID %s, in queue %q is in state %s", record.Task, id, record.Queue, record.State)
	if record.Attempt > 0 {
		text += fmt.Sprintf(", attempt %d", record.Attempt)
	}
	if record.Error != "" {
		text += ": " + record.Error
	}
	return text
}

// Result is what became of a task.
type Result struct {
	Record *redtask.Record // nil if the task was removed, as a local one is at its end
	Events Events          // all of them, of every run that its ID had, in order; the last one is final

	t testing.TB
	h *Harness
}

// RequireRetries fails the test unless the task's policy, [redtask.Retry] or [redtask.Supervise], made it run again so many times.
func (r *Result) RequireRetries(n int) *Result {
	r.t.Helper()
	if r.Record == nil {
		r.t.Fatalf("redtasktest: the task was removed, not retried %d times%s", n, r.Events.listing())
	}
	found := 0
	for _, event := range r.Events {
		var data struct{ Reason string }
		if event.Name == redtask.EventScheduled && json.Unmarshal(event.Data, &data) == nil && (data.Reason == "retry" || data.Reason == "supervised") {
			found++
		}
	}
	if found != n {
		r.t.Fatalf("redtasktest: task %s was retried %d times, not %d%s", r.Record.ID, found, n, r.Events.listing())
	}
	return r
}

// RequireState fails the test, with the task's error, stack and events, if the task did not end in this state. It returns the result.
func (r *Result) RequireState(state redtask.State) *Result {
	r.t.Helper()
	if r.Record == nil {
		r.t.Fatalf("redtasktest: the task was removed, not %s%s", state, r.Events.listing())
	}
	if r.Record.State != state {
		text := summary(r.Record.ID, r.Record) + ", not " + string(state)
		if r.Record.Stack != "" {
			text += "\nstack:\n" + r.Record.Stack
		}
		r.t.Fatalf("redtasktest: %s%s", text, r.Events.listing())
	}
	return r
}

// Log reads the lines that the task's runs logged; see [redtask.TaskOptions.LogLines]. It is empty if the task was removed.
func (r *Result) Log() []redtask.LogLine {
	r.t.Helper()
	if r.Record == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.h.patience())
	defer cancel()
	lines, err := r.h.Client.Log(ctx, r.Record.ID)
	if err != nil && !errors.Is(err, redtask.ErrNotFound) {
		r.t.Fatalf("redtasktest: %v", err)
	}
	return lines
}

// Output decodes the task's output; the test fails if there is none, or if it is not a T.
func Output[T any](r *Result) T {
	r.t.Helper()
	var output T
	if r.Record == nil || r.Record.Output == nil {
		r.t.Fatalf("redtasktest: the task has no output%s", r.Events.listing())
	}
	if err := r.Record.DecodeOutput(&output); err != nil {
		r.t.Fatalf("redtasktest: output %s: %v", r.Record.Output, err)
	}
	return output
}

// Events are those of one task, the oldest first.
type Events []redtask.Event

// Named picks the events of one name.
func (e Events) Named(name string) Events {
	return slices.DeleteFunc(slices.Clone(e), func(event redtask.Event) bool { return event.Name != name })
}

// Names lists the events' names.
func (e Events) Names() []string {
	names := make([]string, len(e))
	for i := range e {
		names[i] = e[i].Name
	}
	return names
}

// Decode decodes the data of each event; the test fails if one is not a T.
func Decode[T any](t testing.TB, events Events) []T {
	t.Helper()
	values := make([]T, len(events))
	for i := range events {
		if err := events[i].Decode(&values[i]); err != nil {
			t.Fatalf("redtasktest: event %s: %v", events[i].String(), err)
		}
	}
	return values
}

// end returns the last event if it ended the task.
func (e Events) end() *redtask.Event {
	for i := len(e) - 1; i >= 0; i-- {
		switch e[i].Name {
		case redtask.EventGap:
			continue
		case redtask.EventEnded, redtask.EventError, redtask.EventException, redtask.EventStopped, redtask.EventRemoved:
			return &e[i]
		}
		return nil
	}
	return nil
}

func (e Events) listing() string {
	const shown = 50
	var text strings.Builder
	text.WriteString("\nevents:")
	if len(e) == 0 {
		text.WriteString(" none")
	}
	if len(e) > shown {
		fmt.Fprintf(&text, "\n    … %d earlier", len(e)-shown)
		e = e[len(e)-shown:]
	}
	for i := range e {
		text.WriteString("\n    " + short(e[i].String()))
	}
	return text.String()
}

// maxEvents bounds what a harness keeps; what comes later is lost, behind a gap.
const maxEvents = 200_000

// recorder keeps the events of all tasks from the harness's start on: a watch that begins later would miss the first ones.
type recorder struct {
	ctx     context.Context
	end     context.CancelFunc
	readers sync.WaitGroup

	mu      sync.Mutex
	queues  map[string]map[string]Events // by queue and ID
	count   int
	changed chan struct{} // closed at the next event
}

func newRecorder() *recorder {
	ctx, end := context.WithCancel(context.Background())
	return &recorder{ctx: ctx, end: end, queues: map[string]map[string]Events{}, changed: make(chan struct{})}
}

// watch begins to record a queue, unless that was begun before.
func (r *recorder) watch(client *redtask.Client) error {
	queue := client.Queue()
	r.mu.Lock()
	known := r.queues[queue] != nil
	if !known {
		r.queues[queue] = map[string]Events{}
	}
	r.mu.Unlock()
	if known {
		return nil
	}
	events, err := client.WatchQueue(r.ctx)
	if err != nil {
		return err
	}
	r.readers.Go(func() {
		for event := range events {
			r.put(queue, event)
		}
	})
	return nil
}

func (r *recorder) put(queue string, event redtask.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tasks := r.queues[queue]
	switch {
	case event.Name == redtask.EventGap || r.count == maxEvents: // any task may have lost some
		for id, events := range tasks {
			if events.end() == nil {
				tasks[id] = append(events, redtask.Event{Name: redtask.EventGap, ID: id, At: event.At})
			}
		}
	case r.count < maxEvents:
		tasks[event.ID] = append(tasks[event.ID], event)
	}
	r.count++
	close(r.changed)
	r.changed = make(chan struct{})
}

// of returns the events of a task so far, and a channel that is closed when there may be more.
func (r *recorder) of(queue, id string) (Events, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.queues[queue][id]), r.changed
}

func (r *recorder) close() {
	r.end()
	r.readers.Wait()
}
