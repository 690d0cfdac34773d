package cron

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redtask/redtask/internal/store"
)

const Name = "redtask/cron"

// What an entry says of times that nobody saw, and of a last run that is not over.
const (
	Skip    = "skip"
	Once    = "once"
	All     = "all"
	Allow   = "allow"
	Replace = "replace"
)

const (
	batch = 16 // entries in one look
	// maxMissed is how many missed times of one entry are made up for.
	maxMissed = 100
)

// Options of a cron; builtin.CronOptions documents them.
type Options struct {
	Interval time.Duration
	Late     time.Duration
	Logger   *slog.Logger
}

// Task lets the entries of one queue fire.
type Task struct {
	options Options
	bound   *store.Bound
	entered bool
}

func New(options Options) *Task {
	if options.Interval == 0 {
		options.Interval = 10 * time.Second
	}
	if options.Late == 0 {
		options.Late = time.Minute
	}
	return &Task{options: options}
}

func (t *Task) Init(ctx context.Context, _ json.RawMessage) error {
	t.bound = store.FromContext(ctx)
	if t.options.Logger == nil {
		t.options.Logger = t.bound.Logger
	}
	return nil
}

// Start looks when something is due, when it is told, and now and then all the same.
func (t *Task) Start(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-t.bound.Wake:
		}
		wait, err := t.look(ctx)
		if err != nil && ctx.Err() == nil {
			t.options.Logger.WarnContext(ctx, "cron could not look what is due; it goes on trying", "queue", t.bound.Queue.Name(), "error", err)
		}
		timer.Reset(wait)
	}
}

// look lets fire what is due, and returns when to look again.
func (t *Task) look(ctx context.Context) (time.Duration, error) {
	unwritten := t.enter(ctx) // what else is due fires all the same
	for {
		due, next, now, err := t.bound.Queue.DueEntries(ctx, batch)
		if err != nil {
			return time.Second, errors.Join(unwritten, err)
		}
		var faults []error
		for _, entry := range due {
			faults = append(faults, t.fire(ctx, entry, time.UnixMilli(now)))
		}
		switch err := errors.Join(faults...); {
		case err != nil:
			return time.Second, errors.Join(unwritten, err)
		case len(due) == 0 && unwritten != nil:
			return time.Second, unwritten
		case len(due) == 0 && next == 0:
			return t.options.Interval, nil
		case len(due) == 0:
			return t.until(next - now), nil
		}
	}
}

// until is how long to wait for what is due in some ms, which may be more than a Duration holds: what is paused is never due.
func (t *Task) until(ms int64) time.Duration {
	return time.Duration(min(t.options.Interval.Milliseconds(), max(1, ms))) * time.Millisecond
}

// enter writes what the runner declares.
func (t *Task) enter(ctx context.Context) error {
	if t.entered || len(t.bound.Entries) == 0 {
		return nil
	}
	now, err := t.bound.Queue.Now(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, entry := range t.bound.Entries {
		faults = append(faults, t.bound.Queue.Enter(ctx, entry.Name, entry.Next(now).UnixMilli(), entry.Fields))
	}
	err = errors.Join(faults...)
	t.entered = err == nil
	return err
}

// fire deals with one entry that is due. What is wrong with it is written to it, and does not come back until somebody mends it.
func (t *Task) fire(ctx context.Context, seen store.DueEntry, now time.Time) error {
	hash, err := t.bound.Queue.Entry(ctx, seen.Name)
	if errors.Is(err, store.ErrMissing) {
		return t.bound.Queue.Retime(ctx, seen, 0) // forgets it, if it is not there again
	}
	if err != nil && !errors.Is(err, store.ErrWrongType) {
		return err
	}
	if err != nil {
		return t.bound.Queue.RemoveEntry(ctx, seen.Name) // its hash is none: there is nowhere to say so but in the log
	}
	e, err := newEntry(seen.Name, hash)
	if err == nil {
		return t.fireEntry(ctx, e, seen, now)
	}
	t.options.Logger.ErrorContext(ctx, "an entry of the schedule is bad, and does not fire until it is mended", "queue", t.bound.Queue.Name(),
		"entry", seen.Name, "error", err)
	return t.bound.Queue.Spoil(ctx, seen, "error", err.Error())
}

func (t *Task) fireEntry(ctx context.Context, e *entry, seen store.DueEntry, now time.Time) error {
	if e.paused {
		return t.bound.Queue.Spoil(ctx, seen, "paused", "1")
	}
	if seen.Due <= 0 || e.timed != "" && e.timed != e.expression {
		return t.bound.Queue.Retime(ctx, seen, e.schedule.Next(now).UnixMilli())
	}
	missed := 0
	for due := time.UnixMilli(seen.Due); ; missed++ {
		firing, more := e.firing(due, now, missed, t.options.Late)
		outcome, err := t.bound.Queue.Fire(ctx, firing)
		if err != nil {
			return err
		}
		t.tell(ctx, e, due, outcome)
		if !more || outcome == "other" {
			return nil
		}
		due = time.UnixMilli(firing.Next)
	}
}

func (t *Task) tell(ctx context.Context, e *entry, due time.Time, outcome string) {
	level := slog.LevelDebug
	switch outcome {
	case "started", "exists", "other":
	case "left out", "overlap":
		level = slog.LevelInfo
	default:
		level = slog.LevelWarn
	}
	t.options.Logger.Log(ctx, level, "an entry of the schedule was due", "queue", t.bound.Queue.Name(), "entry", e.name, "due", due.UTC(), "outcome", outcome)
}

// entry is one that can fire.
type entry struct {
	name, expression, timed   string
	zone                      string
	schedule                  *Schedule
	task, data, options, spec string
	missed, overlap           string
	paused, keep              bool
}

func newEntry(name string, hash map[string]string) (*entry, error) {
	e := &entry{
		name: name, expression: hash["schedule"], zone: hash["zone"], timed: hash["timed"], task: hash["task"], data: hash["data"], options: hash["options"],
		missed: hash["missed"], overlap: hash["overlap"], paused: hash["paused"] != "", keep: hash["keep"] != "",
	}
	var faults []error
	schedule, err := Parse(e.expression, hash["zone"])
	if err != nil {
		faults = append(faults, err)
	}
	e.schedule = schedule
	if e.task == "" {
		faults = append(faults, errors.New("no task: HSET the field `task` to the name of one"))
	}
	if e.data != "" && !json.Valid([]byte(e.data)) {
		faults = append(faults, fmt.Errorf("data is not JSON: %.80s", e.data))
	}
	faults = append(faults, oneOf("missed", &e.missed, Once, Skip, All), oneOf("overlap", &e.overlap, Skip, Allow, Replace))
	if e.missed == All && e.overlap == Skip {
		faults = append(faults, errors.New("missed is all, and overlap skip, the default: the first of several tasks would keep the others from starting; HSET overlap to allow"))
	}
	spec, err := newSpec(e.options, hash["expires_ms"])
	if err != nil {
		faults = append(faults, err)
	}
	e.spec = spec
	return e, errors.Join(faults...)
}

// oneOf checks a field; the first value is its default.
func oneOf(field string, value *string, values ...string) error {
	if *value == "" {
		*value = values[0]
	}
	for _, known := range values {
		if *value == known {
			return nil
		}
	}
	return fmt.Errorf("%s is %.80q: use one of %q", field, *value, values)
}

func newSpec(options, expires string) (string, error) {
	spec := map[string]any{}
	var faults []error
	if options != "" {
		if !json.Valid([]byte(options)) || !strings.HasPrefix(strings.TrimSpace(options), "{") {
			faults = append(faults, fmt.Errorf("options are no JSON object: %.80s", options))
		}
		spec["options"] = json.RawMessage(options)
	}
	if expires != "" {
		n, err := strconv.ParseInt(expires, 10, 64)
		if err != nil || n < 1 {
			faults = append(faults, fmt.Errorf("expires_ms is %.80q: use a number of milliseconds", expires))
		}
		spec["expires_ms"] = n
	}
	if err := errors.Join(faults...); err != nil {
		return "", err
	}
	encoded, err := json.Marshal(spec)
	return string(encoded), err
}

// firing says what to do at a due time, and whether another one that was missed follows.
func (e *entry) firing(due, now time.Time, missed int, late time.Duration) (f *store.Firing, more bool) {
	next := e.schedule.After(due, now)
	if e.missed == All && missed < maxMissed {
		if following := e.schedule.Next(due); !following.IsZero() && !following.After(now) {
			next, more = following, true
		}
	}
	f = &store.Firing{Name: e.name, Due: due.UnixMilli(), Overlap: e.overlap, Schedule: e.expression, Zone: e.zone}
	if !next.IsZero() {
		f.Next = next.UnixMilli()
	}
	if e.missed == Skip && now.Sub(due) > late {
		return f, more
	}
	f.Task = e.newTask()
	f.Task.ID = e.id(due)
	return f, more
}

func (e *entry) newTask() *store.NewTask {
	task := &store.NewTask{Task: e.task, Data: e.data, Options: e.options, Spec: e.spec, Keep: e.keep}
	if e.spec != "{}" && e.options == "" {
		task.Options = "{}" // a claim looks at the expiry of those that have options
	}
	return task
}

// NewTask makes a task as an entry's hash says, without an ID.
func NewTask(name string, hash map[string]string) (*store.NewTask, error) {
	e, err := newEntry(name, hash)
	if err != nil {
		return nil, err
	}
	return e.newTask(), nil
}

// id is the same for whoever lets an entry fire.
func (e *entry) id(due time.Time) string {
	return e.name + "@" + due.UTC().Format("2006-01-02T15:04:05.000Z")
}
