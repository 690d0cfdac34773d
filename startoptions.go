package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redtask/redtask/internal/store"
)

// StartOptions are what one start says beyond name and data. The zero value works.
type StartOptions struct {
	// ID is the task's own ID: at most [MaxID] bytes, without control characters. An ID that is waiting or running is refused with a
	// [*ConflictError] that is [ErrExists]; a final one is started anew, its old record gone. Default: a new random ID.
	ID string
	// Keep keeps the record of the final task from cleanup. Default false.
	Keep bool

	// At or In delay the start: until then the task is SCHEDULED. At is a time by the clock of Redis, In counts from the call; use one of them.
	// A time that is past starts the task at once. Runners wake when it is due. See [Client.Reschedule]; [Client.Stop] cancels.
	At time.Time
	In time.Duration

	// Priority chooses the line in the queue. A run that was cut short goes on before all others of normal priority, whatever this says.
	// Default [PriorityNormal].
	Priority Priority
	// Key is what the task is about, a customer's ID, say: limits per key count by it, see [Limits]. At most [MaxKey] bytes, without
	// control characters. Default: none.
	Key string
	// Ordered runs tasks of the same Key, whatever their names, strictly one after the other in the order in which they were started, or
	// became due: the next one begins when the one before is final, so one that is retried holds up those behind it. It needs a Key. Default false.
	Ordered bool
	// Once lets only one task with the same unique key exist at a time: see [Unique], [Throttle], [Debounce]. Default: none.
	Once Once

	// Retry is the policy for this start, in the place of the registration's Retry or Supervise; not together with Supervise. Default: that of
	// the registration, [TaskOptions.Retry].
	Retry *Retry
	// Supervise is the policy for this start, as Retry is. Default: that of the registration, [TaskOptions.Supervise].
	Supervise *Supervise

	// Timeout bounds each run, in the place of what the registration says. At least 1 ms. Default: [TaskOptions.Timeout].
	Timeout time.Duration
	// Deadline is when the task must be through, its retries among it, by the clock of Redis: then it is told to stop with cause [ErrDeadline]
	// and ends in EXCEPTION; one in line ends so when its turn comes; and an attempt after which the next would come too late is the last.
	// It stays what it is in a [Client.Restart]. Default: none.
	Deadline time.Time
	// Expiry is how long the task may wait, from when it is due: a task whose turn comes later ends in EXCEPTION with [ErrExpired]. The time is
	// fixed by the start, and neither a pause nor a new due time moves it; it does not count for what comes after the first run.
	// Default 0: as long as it takes.
	Expiry time.Duration

	// Headers travel with the task: trace context, tenant. A task that is started with the ctx of a running one inherits that one's; then come
	// those of [ClientOptions.Headers], then these: of the same name the last one counts. At most 16 KiB in all. Default: none.
	Headers map[string]string
}

// Priority is a line within a queue. Those of higher priority go first, mostly: of ten claims six look at high first, three at normal, one at
// low, so none starves.
type Priority string

// The priorities.
const (
	PriorityHigh   Priority = "high"
	PriorityNormal Priority = ""
	PriorityLow    Priority = "low"
)

// MaxKey bounds [StartOptions.Key] and the key of a [Once], in bytes.
const MaxKey = 256

// maxHeaders bounds what travels with a task, names and values, in bytes.
const maxHeaders = 16 << 10

// Once is a unique key: while a task has it, a further start with the same key is a conflict. Make it with [Unique], [Throttle] or
// [Debounce].
type Once struct {
	key      string
	ttl      time.Duration
	longest  time.Duration
	release  string // end, start, never
	conflict string // refuse, keep, replace
	changed  bool   // by OrExisting or OrReplace
	set      bool
}

type onceOptions struct {
	Key     string `json:"key"`
	Release string `json:"release,omitempty"`
	TTLMS   int64  `json:"ttl_ms,omitempty"`
}

// Unique gives a task a key that no other task of the queue may have, whatever its name and data, until it is final; with a ttl at most for
// that time from the call that starts it, whatever it does then. A further start is refused with a [*ConflictError] that is [ErrNotUnique] and
// has the ID of the task that is there; see [Once.OrExisting] and [Once.OrReplace] for other answers. Unique, Throttle and Debounce share
// their keys.
func Unique(key string, ttl time.Duration) Once {
	return Once{key: key, ttl: ttl, release: "end", conflict: "refuse", set: true}
}

// Throttle runs a task at most once in a window, which begins with the call that starts it: further starts of the key in it make no task, and
// return the ID of the first.
func Throttle(key string, window time.Duration) Once {
	return Once{key: key, ttl: window, release: "never", conflict: "keep", set: true}
}

// Debounce runs a task once nobody has started it for quiet: each further start of the key replaces its data, puts it off anew, and
// returns its ID. With a longest that is not 0 it runs at the latest that long after the first of these starts. It cannot be combined with At
// or In.
func Debounce(key string, quiet, longest time.Duration) Once {
	return Once{key: key, ttl: quiet, longest: longest, release: "start", conflict: "replace", set: true}
}

// OrExisting returns the ID of the task that has the key, instead of an error. It is for [Unique]; Throttle and Debounce have answers of their
// own.
func (o Once) OrExisting() Once {
	o.conflict, o.changed = "keep", true
	return o
}

// OrReplace gives the task that has the key the new name, data and options, if it has not begun, or waits for its next attempt, and returns
// its ID: it keeps its place in line. One that runs is a conflict. It is for [Unique]; Throttle and Debounce have answers of their own.
func (o Once) OrReplace() Once {
	o.conflict, o.changed = "replace", true
	return o
}

func (o *Once) isDebounce() bool { return o.set && o.release == "start" }

// checkKey is for what becomes part of a Redis key.
func checkKey(where, key string) error {
	if key == "" || len(key) > MaxKey || !utf8.ValidString(key) || strings.ContainsFunc(key, notPrintable) {
		return fmt.Errorf("%w: %s: key %.80q: use 1 to %d bytes of UTF-8 without control characters", ErrInvalid, where, key, MaxKey)
	}
	return nil
}

func checkPlacing(where string, priority Priority, key string, ordered bool) []error {
	var faults []error
	if priority != PriorityNormal && priority != PriorityHigh && priority != PriorityLow {
		faults = append(faults, fmt.Errorf("%w: %s: Priority %.80q: use %q, %q, or %q for the normal one", ErrInvalid, where, priority, PriorityHigh, PriorityLow, PriorityNormal))
	}
	switch {
	case key != "":
		if err := checkKey(where, key); err != nil {
			faults = append(faults, err)
		}
	case ordered:
		faults = append(faults, fmt.Errorf("%w: %s: Ordered without a Key: give the key whose tasks are to keep their order", ErrInvalid, where))
	}
	return faults
}

// isPlain reports whether a start says no more than name, data, ID and Keep.
func (o *StartOptions) isPlain() bool {
	return o.At.IsZero() && o.In == 0 && o.Priority == "" && o.Key == "" && !o.Ordered && !o.Once.set && o.Retry == nil && o.Supervise == nil &&
		o.Timeout == 0 && o.Deadline.IsZero() && o.Expiry == 0 && len(o.Headers) == 0
}

// validate reports all faults at once.
func (o *StartOptions) validate(where string) error {
	faults := checkPlacing(where, o.Priority, o.Key, o.Ordered)
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s: %s", ErrInvalid, where, fmt.Sprintf(format, args...)))
	}
	for name, d := range map[string]time.Duration{"In": o.In, "Timeout": o.Timeout, "Expiry": o.Expiry} {
		if d != 0 && d < time.Millisecond {
			add("%s %s: use at least 1ms; is its unit missing?", name, d)
		}
	}
	if o.In != 0 && !o.At.IsZero() {
		add("both At and In: use one of them")
	}
	if !o.At.IsZero() && !o.Deadline.IsZero() && !o.At.Before(o.Deadline) {
		add("Deadline %s is not after At, %s: it could not run", o.Deadline.Format(time.RFC3339), o.At.Format(time.RFC3339))
	}
	if o.Retry != nil && o.Supervise != nil {
		add("both Retry and Supervise: a supervised task has no attempts that could be used up; use one of them")
	}
	faults = append(faults, o.Retry.faults(where)...)
	faults = append(faults, o.Supervise.faults(where)...)
	if o.Retry != nil && o.Retry.Backoff.own != nil || o.Supervise != nil && o.Supervise.Backoff.own != nil {
		add("BackoffFunc: a function cannot travel; give it at registration")
	}
	if o.Once.set {
		faults = append(faults, o.onceFaults(where)...)
	}
	size := 0
	for name, value := range o.Headers {
		size += len(name) + len(value)
		if name == "" || !utf8.ValidString(name) || !utf8.ValidString(value) {
			add("header %.80q: names are not empty, names and values are UTF-8", name)
		}
	}
	if size > maxHeaders {
		add("Headers have %d bytes: use at most %d; more belongs in the data", size, maxHeaders)
	}
	return errors.Join(faults...)
}

func (o *StartOptions) onceFaults(where string) []error {
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s: %s", ErrInvalid, where, fmt.Sprintf(format, args...)))
	}
	if err := checkKey(where+": Once", o.Once.key); err != nil {
		faults = append(faults, err)
	}
	if o.Once.ttl < 0 || o.Once.ttl != 0 && o.Once.ttl < time.Millisecond || o.Once.ttl == 0 && o.Once.release != "end" {
		add("Once: a time of %s: use at least 1ms; is its unit missing?", o.Once.ttl)
	}
	if o.Once.release != "end" && o.Once.changed {
		add("Once: OrExisting and OrReplace are for Unique: Throttle and Debounce say themselves what a further start does")
	}
	if o.Once.longest != 0 && o.Once.longest < o.Once.ttl {
		add("Debounce: longest %s is less than quiet %s", o.Once.longest, o.Once.ttl)
	}
	if o.Once.isDebounce() && (o.In != 0 || !o.At.IsZero()) {
		add("Debounce with At or In: it has a delay of its own")
	}
	return faults
}

// startSpec is what start.lua wants to know of a start that is not plain.
type startSpec struct {
	Options   json.RawMessage `json:"options"`
	At        int64           `json:"at,omitempty"`
	DelayMS   int64           `json:"delay_ms,omitempty"`
	ExpiresMS int64           `json:"expires_ms,omitempty"`
	MostMS    int64           `json:"most_ms,omitempty"`
	Once      *onceSpec       `json:"once,omitempty"`
}

type onceSpec struct {
	onceOptions
	Conflict string `json:"conflict"`
}

// encode adds to a task what its start says beside name and data.
func (o *StartOptions) encode(task *store.NewTask) error {
	if err := o.validate("start of " + task.Task); err != nil {
		return err
	}
	options := recordOptions{
		Priority: o.Priority, Key: o.Key, Ordered: o.Ordered, Retry: o.Retry.options(), Supervise: o.Supervise.options(),
		TimeoutMS: o.Timeout.Milliseconds(), DeadlineAt: unixMilli(o.Deadline), Headers: o.Headers,
	}
	spec := startSpec{At: unixMilli(o.At), DelayMS: o.In.Milliseconds(), ExpiresMS: o.Expiry.Milliseconds()}
	if o.Once.set {
		options.Once = &onceOptions{Key: o.Once.key, Release: o.Once.release}
		if o.Once.isDebounce() {
			spec.DelayMS, spec.MostMS = o.Once.ttl.Milliseconds(), o.Once.longest.Milliseconds()
		} else {
			options.Once.TTLMS = o.Once.ttl.Milliseconds()
		}
		spec.Once = &onceSpec{*options.Once, o.Once.conflict}
	}
	encoded, err := json.Marshal(options)
	if err != nil {
		return fmt.Errorf("redtask: start of %s: encode its options: %w", task.Task, err)
	}
	spec.Options = encoded
	whole, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("redtask: start of %s: encode its options: %w", task.Task, err)
	}
	task.Spec = string(whole)
	if string(encoded) != "{}" || o.Expiry > 0 { // a claim looks at the expiry of those that have options
		task.Options = string(encoded)
	}
	return nil
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, t.UnixMilli())
}

// inherit adds the headers that travel: those of the run that ctx belongs to, and what the application adds to all starts.
func (c *Client) inherit(ctx context.Context, own map[string]string) map[string]string {
	run, _ := ctx.Value(runKey{}).(*Run)
	inherits := run != nil && len(run.headers) > 0
	if !inherits && c.shared.headers == nil {
		return own
	}
	headers := map[string]string{}
	if inherits {
		maps.Copy(headers, run.headers)
	}
	if c.shared.headers != nil {
		maps.Copy(headers, c.shared.headers(ctx))
	}
	maps.Copy(headers, own)
	return headers
}
