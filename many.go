package redtask

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// Filter says which tasks [Client.StopMany], [Client.RestartMany], [Client.RemoveMany] and [Client.RetryMany] are for: those that all of it
// fits. Tasks that are bound to their runner, as monitor and cleanup are, fit none.
type Filter struct {
	// State of the tasks. Required, unless Kept.
	State State
	// Kept looks among the final tasks whose record is to stay, which are not among those of their states; of any state, or of State.
	Kept bool
	// Task is a task's name, or `app/*` for all names that begin with `app/`. Default "": any.
	Task string
	// Error is a part of the record's error. Default "": any, and none.
	Error string
	// OlderThan leaves out tasks that are younger, NewerThan those that are that old or older: by the clock of Redis when the call begins,
	// from when they became final, began to run, or, in line and scheduled, were started. A record without that time fits neither.
	// Default 0: any age. At least 1ms.
	OlderThan, NewerThan time.Duration
	// Limit of tasks to change: of final and scheduled ones those of the earliest times, of those in line the latest. Default 0: all.
	Limit int
	// Progress, if not nil, is called after each step with what was done until then, in the goroutine of the call, which waits for it.
	Progress func(ManyResult)
}

// ManyResult is what a call for many tasks did. Matched is the sum of the three behind it, but for a step whose answers were lost.
type ManyResult struct {
	Looked  int   `json:"looked"`  // records that were looked at; one that waits for a limit, or for its turn, may count twice
	Matched int   `json:"matched"` // that the filter fits
	Done    int   `json:"done"`    // stopped, or told to; in line again; removed
	Moved   int   `json:"moved"`   // had moved on between the look and the deed: they are left alone
	Refused int   `json:"refused"` // cannot be changed so: a stop is pending, or another task has the unique key by now
	Refusal error `json:"-"`       // the first of these, a [*ConflictError] mostly
}

// deed is what is done to many tasks.
type deed struct {
	word   string
	states []State
	why    string // what is wrong with other states
}

var (
	stopsMany    = deed{store.Stop, []State{StateWait, StateScheduled, StateRunning}, "a final task cannot be stopped"}
	restartsMany = deed{
		store.Restart, []State{StateRunning, StateEnded, StateError, StateException, StateStopped},
		"a task in line runs anyway; for a scheduled one use RetryMany",
	}
	removesMany = deed{
		store.Remove, []State{StateWait, StateScheduled, StateEnded, StateError, StateException, StateStopped}, "a task that runs is to be stopped first",
	}
	retriesMany = deed{store.Retry, []State{StateScheduled, StateError, StateException}, "it has not failed; use RestartMany"}
)

// StopMany stops the tasks that fit a filter, as [Client.Stop] does: those of state WAIT, SCHEDULED or RUNNING. Those that run are told; they
// end soon after.
//
// It goes in steps of at most 64 tasks, each of which takes Redis about a millisecond, while runners and clients work on. A task that has
// moved on since it was looked at is left alone, and none is changed twice, also where the answer of a step is lost. Tasks that come into the
// state meanwhile may be left out; those that are there all the time are not. When ctx ends, no further step is made. Then, and after any
// other error, the result tells what was done; the call can be made again. A filter that makes no sense is [ErrInvalid], before anything is done.
func (c *Client) StopMany(ctx context.Context, filter Filter) (ManyResult, error) {
	return c.many(ctx, &stopsMany, &filter)
}

// RestartMany runs again the tasks that fit a filter, as [Client.Restart] does: final ones, and RUNNING ones, which are stopped first. It goes
// as [Client.StopMany] does. A task that runs again and ends anew meanwhile is not restarted once more.
func (c *Client) RestartMany(ctx context.Context, filter Filter) (ManyResult, error) {
	return c.many(ctx, &restartsMany, &filter)
}

// RemoveMany removes the tasks that fit a filter, as [Client.Remove] does, with their records: those of any state but RUNNING. It goes as
// [Client.StopMany] does.
func (c *Client) RemoveMany(ctx context.Context, filter Filter) (ManyResult, error) {
	return c.many(ctx, &removesMany, &filter)
}

// RetryMany runs again the tasks that fit a filter, as [Client.Retry] does: those of state ERROR or EXCEPTION, and those that are SCHEDULED,
// at once; of these a [Filter.Error] tells the ones that failed before from delayed starts. It goes as [Client.RestartMany] does.
func (c *Client) RetryMany(ctx context.Context, filter Filter) (ManyResult, error) {
	return c.many(ctx, &retriesMany, &filter)
}

func (c *Client) many(ctx context.Context, d *deed, f *Filter) (ManyResult, error) {
	if c.fault != nil {
		return ManyResult{}, c.fault
	}
	index, err := f.index(d)
	if err != nil {
		return ManyResult{}, err
	}
	s := &sweep{queue: c.queue, deed: d, filter: f, nonce: newID()}
	if err = s.begin(ctx, index); err == nil {
		err = s.run(ctx)
	}
	if err != nil {
		err = public(fmt.Errorf("%s many tasks: %d were done, then: %w", d.word, s.Done, err))
	}
	return s.ManyResult, err
}

// sweep is one call for many tasks.
type sweep struct {
	ManyResult
	queue  *store.Queue
	deed   *deed
	filter *Filter
	nonce  string // a task that has it was done in this call
	walk   *store.Walk
	left   int // of the last step, the tasks that have left the index
}

func (s *sweep) begin(ctx context.Context, index string) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.walk, err = s.queue.Walk(ctx, index)
	return err
}

func (s *sweep) run(ctx context.Context) error {
	for s.filter.Limit == 0 || s.Done < s.filter.Limit {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		ids, ok, err := s.walk.Next(ctx, s.left)
		if err != nil || !ok {
			return err
		}
		err = s.step(ctx, ids)
		if s.filter.Progress != nil {
			s.filter.Progress(s.ManyResult)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sweep) step(ctx context.Context, ids []string) error {
	tasks, err := s.queue.Look(ctx, ids, s.filter.since(), s.filter.Error != "")
	if err != nil {
		return err
	}
	s.Looked += len(tasks)
	tasks = slices.DeleteFunc(tasks, func(task store.Found) bool { return !s.fits(&task) })
	if s.filter.Limit > 0 {
		tasks = tasks[:min(len(tasks), s.filter.Limit-s.Done)]
	}
	s.Matched += len(tasks)
	changed, err := s.queue.Change(ctx, s.deed.word, tasks, s.nonce)
	s.left = changed.Done
	s.Done, s.Moved, s.Refused = s.Done+changed.Done, s.Moved+changed.Moved, s.Refused+changed.Refused
	if s.Refusal == nil {
		s.Refusal = public(changed.Refusal)
	}
	return err
}

func (s *sweep) fits(task *store.Found) bool {
	f, state := s.filter, State(task.State)
	return slices.Contains(s.deed.states, state) && (f.State == "" || f.State == state) &&
		!task.Local && task.Nonce != s.nonce && f.hasName(task.Task) && strings.Contains(task.Error, f.Error) && f.hasAge(task.Since, s.walk.Now)
}

func (f *Filter) hasName(name string) bool {
	if prefix, ok := strings.CutSuffix(f.Task, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return f.Task == "" || f.Task == name
}

// since is the field that ages count from.
func (f *Filter) since() string {
	switch f.State {
	case StateWait, StateScheduled:
		return "created_at"
	case StateRunning:
		return "started_at"
	}
	return "ended_at"
}

func (f *Filter) hasAge(since, now int64) bool {
	if f.OlderThan == 0 && f.NewerThan == 0 {
		return true
	}
	age := time.Duration(now-since) * time.Millisecond
	return since > 0 && age >= f.OlderThan && (f.NewerThan == 0 || age < f.NewerThan)
}

// index is where to look; all that is wrong with the filter is reported at once.
func (f *Filter) index(d *deed) (string, error) {
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s many tasks: Filter.%s", ErrInvalid, d.word, fmt.Sprintf(format, args...)))
	}
	index, err := indexOf(&ListOptions{State: f.State, Kept: f.Kept})
	switch {
	case err != nil || f.Kept && f.State != "" && !f.State.Final():
		add("State %q: use one of the State constants, with Kept a final one or none", f.State)
	case f.Kept && d.word == store.Stop:
		add("Kept: %s", d.why)
	case f.State != "" && !slices.Contains(d.states, f.State):
		add("State %s: %s", f.State, d.why)
	}
	if f.Task != "" && checkName(f.Task) != nil && !isNamePrefix(f.Task) {
		add("Task %.160q: use a task's name, or `app/*` for all that begin with `app/`", f.Task)
	}
	if f.Error != "" && (f.State == StateRunning || f.State == StateEnded) {
		add("Error: a task that is %s has none", f.State)
	}
	if f.Limit < 0 {
		add("Limit %d: use 0 for all", f.Limit)
	}
	f.checkAges(add)
	return index, errors.Join(faults...)
}

func (f *Filter) checkAges(add func(format string, args ...any)) {
	if f.OlderThan != 0 && f.OlderThan < time.Millisecond {
		add("OlderThan %s: use at least 1ms; is its unit missing?", f.OlderThan)
	}
	if f.NewerThan != 0 && f.NewerThan < time.Millisecond {
		add("NewerThan %s: use at least 1ms; is its unit missing?", f.NewerThan)
	}
	if f.NewerThan > 0 && f.OlderThan >= f.NewerThan {
		add("OlderThan %s with NewerThan %s: no task is both", f.OlderThan, f.NewerThan)
	}
}

func isNamePrefix(text string) bool {
	prefix, ok := strings.CutSuffix(text, "/*")
	return ok && checkName(prefix+"/x") == nil
}
