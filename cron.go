package redtask

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redtask/redtask/internal/cron"
	"github.com/redtask/redtask/internal/store"
)

// CronEntry starts a task again and again, at the times of a schedule. It lives in Redis under its name: see [Client.Cron], and
// [RunnerOptions.Cron] for entries that are declared in code. Any number of runners let it fire, each time once.
type CronEntry struct {
	// Name of the entry in its queue: at most 128 bytes of printable UTF-8.
	Name string
	// Schedule has five fields: minute, hour, day of the month, the month, day of the week, 0 to 6 or SUN to SAT (`30 2 * * 1-5`), or is a
	// descriptor (@hourly, @daily, @weekly, @monthly, @yearly), or @every with whole seconds (`@every 90s`), which counts from the time
	// before.
	Schedule string
	// Zone is the time zone of the schedule, a name of the IANA database. Default "": UTC. Where clocks are changed, a time that is skipped
	// fires an hour later, one that comes twice fires once; what fires every hour, or more often, goes by the time that passes.
	Zone string
	// Task is the name of the task to start, Data its data, encoded as JSON.
	Task string
	Data any
	// Options of each start. ID, At, In, Once and Deadline are not for entries: the ID is that of the firing, `NAME@TIME`.
	Options StartOptions
	// Missed says what becomes of times at which no runner was there. Default [MissedOnce].
	Missed Missed
	// Overlap says what happens when the task of the last time is not final yet. Default [OverlapSkip].
	Overlap Overlap
}

// Missed says what becomes of times at which no runner was there.
type Missed string

// What becomes of missed times.
const (
	MissedOnce Missed = cron.Once // one start for all of them, as soon as a runner is there
	MissedSkip Missed = cron.Skip // no start for a time that is more than a minute ago; builtin.CronOptions.Late says how long
	MissedAll  Missed = cron.All  // a start for each of them, at most 100, the oldest first; it needs another Overlap than OverlapSkip
)

// Overlap says what happens when the task of the last time is not final yet.
type Overlap string

// What happens to the task of the last time.
const (
	OverlapSkip    Overlap = cron.Skip    // it goes on, and this time is left out
	OverlapAllow   Overlap = cron.Allow   // both run
	OverlapReplace Overlap = cron.Replace // it is stopped as by [Client.Stop], and the new one starts at once
)

// CronRecord is what Redis holds of an entry. To change one, read it, and [Cron.Add] a CronEntry of what it says.
type CronRecord struct {
	Name     string          `json:"name"`
	Queue    string          `json:"queue"`
	Schedule string          `json:"schedule"`
	Zone     string          `json:"zone,omitempty"`
	Task     string          `json:"task"`
	Data     json.RawMessage `json:"data,omitempty"`
	Options  StartOptions    `json:"-"` // as far as they can be read; Error tells what cannot
	Missed   Missed          `json:"missed"`
	Overlap  Overlap         `json:"overlap"`
	Paused   bool            `json:"paused,omitempty"`
	Declared bool            `json:"declared,omitempty"` // by a runner's [RunnerOptions.Cron]
	NextAt   time.Time       `json:"next_at,omitzero"`   // zero while it is paused or bad
	LastAt   time.Time       `json:"last_at,omitzero"`   // the time that it was due, not when the task ran
	LastID   string          `json:"last_id,omitempty"`  // of the task that was started then
	Error    string          `json:"error,omitempty"`    // what keeps it from firing until it is mended, or what it starts from running
}

// Cron is the schedule of a queue. Its methods may be called from any goroutine.
type Cron struct{ client *Client }

// Cron returns the schedule of the client's queue.
func (c *Client) Cron() *Cron { return &Cron{c} }

const maxEntryName = 128

// validate reports all faults at once.
func (e *CronEntry) validate() (*cron.Schedule, error) {
	where := fmt.Sprintf("cron entry %.80q", e.Name)
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s: %s", ErrInvalid, where, fmt.Sprintf(format, args...)))
	}
	if len(e.Name) > maxEntryName || checkKey(where, e.Name) != nil {
		add("Name: use 1 to %d bytes of UTF-8 without control characters", maxEntryName)
	}
	schedule, err := cron.Parse(e.Schedule, e.Zone)
	if err != nil {
		add("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if err := checkTask(e.Task); err != nil {
		faults = append(faults, fmt.Errorf("%s: %w", where, err))
	}
	if o := &e.Options; o.ID != "" || !o.At.IsZero() || o.In != 0 || o.Once.set || !o.Deadline.IsZero() {
		add("Options: ID, At, In, Once and Deadline are not for entries: each start has an ID and a time of its own")
	}
	if err := e.Options.validate(where); err != nil {
		faults = append(faults, err)
	}
	if e.Missed != "" && e.Missed != MissedOnce && e.Missed != MissedSkip && e.Missed != MissedAll {
		add("Missed %q: use MissedOnce, MissedSkip or MissedAll", e.Missed)
	}
	if e.Overlap != "" && e.Overlap != OverlapSkip && e.Overlap != OverlapAllow && e.Overlap != OverlapReplace {
		add("Overlap %q: use OverlapSkip, OverlapAllow or OverlapReplace", e.Overlap)
	}
	if e.Missed == MissedAll && (e.Overlap == "" || e.Overlap == OverlapSkip) {
		add("MissedAll with OverlapSkip, the default: the first of several tasks would keep the others from starting; set Overlap to OverlapAllow")
	}
	return schedule, errors.Join(faults...)
}

// encode makes what Redis is to hold of an entry.
func (e *CronEntry) encode(maxData int, declared bool) (*store.Entry, error) {
	schedule, err := e.validate()
	if err != nil {
		return nil, err
	}
	data, err := encode(fmt.Sprintf("data of cron entry %q", e.Name), e.Data, maxData)
	if err != nil {
		return nil, err
	}
	task := &store.NewTask{Task: e.Task}
	if err := e.Options.encode(task); err != nil {
		return nil, err
	}
	fields := map[string]string{
		"schedule": e.Schedule, "zone": e.Zone, "task": e.Task, "data": string(data), "options": task.Options, "missed": string(e.Missed),
		"overlap": string(e.Overlap), "expires_ms": "", "keep": "", "declared": "",
	}
	if e.Options.Expiry > 0 {
		fields["expires_ms"] = strconv.FormatInt(e.Options.Expiry.Milliseconds(), 10)
	}
	if e.Options.Keep {
		fields["keep"] = "1"
	}
	if declared {
		fields["declared"] = "1"
	}
	return &store.Entry{Name: e.Name, Fields: fields, Next: schedule.Next}, nil
}

// Add writes an entry. One that has its name is replaced: it keeps its pause and its last run and, if schedule and zone are the same, the time
// at which it fires next.
func (c *Cron) Add(ctx context.Context, entry CronEntry) error {
	if c.client.fault != nil {
		return c.client.fault
	}
	encoded, err := entry.encode(c.client.shared.maxData, false)
	if err != nil {
		return err
	}
	if err := c.client.announce(ctx); err != nil {
		return public(err)
	}
	now, err := c.client.queue.Now(ctx)
	if err == nil {
		err = c.client.queue.Enter(ctx, encoded.Name, encoded.Next(now).UnixMilli(), encoded.Fields)
	}
	return public(err)
}

// Get reads an entry; [ErrNotFound] if there is none.
func (c *Cron) Get(ctx context.Context, name string) (*CronRecord, error) {
	hash, err := c.read(ctx, name)
	if err != nil {
		return nil, err
	}
	return newCronRecord(c.client.Queue(), name, hash), nil
}

func (c *Cron) read(ctx context.Context, name string) (map[string]string, error) {
	if c.client.fault != nil {
		return nil, c.client.fault
	}
	hash, err := c.client.queue.Entry(ctx, name)
	return hash, public(err)
}

func newCronRecord(queue, name string, h map[string]string) *CronRecord {
	options, err := parseOptions(cmp.Or(h["options"], "{}"))
	fault := h["error"]
	if fault == "" && err != nil {
		fault = err.Error()
	}
	start := options.startOptions()
	start.Keep, start.Expiry = h["keep"] != "", ms(parseInt(h["expires_ms"]))
	return &CronRecord{
		Name: name, Queue: queue, Schedule: h["schedule"], Zone: h["zone"], Task: h["task"], Data: raw(h["data"]), Options: start,
		Missed: cmp.Or(Missed(h["missed"]), MissedOnce), Overlap: cmp.Or(Overlap(h["overlap"]), OverlapSkip), Paused: h["paused"] != "", Declared: h["declared"] != "", NextAt: millis(h["next_at"]),
		LastAt: millis(h["last_at"]), LastID: h["last_id"], Error: fault,
	}
}

// List lists all entries, those that fire next first.
func (c *Cron) List(ctx context.Context) ([]*CronRecord, error) {
	if c.client.fault != nil {
		return nil, c.client.fault
	}
	names, hashes, err := c.client.queue.Entries(ctx)
	if err != nil {
		return nil, public(err)
	}
	records := make([]*CronRecord, 0, len(names))
	for i, name := range names {
		if hashes[i] != nil { // else it was removed meanwhile, or is none: the cron takes that one out
			records = append(records, newCronRecord(c.client.Queue(), name, hashes[i]))
		}
	}
	return records, nil
}

// Pause keeps an entry from firing, until [Cron.Resume]; [ErrNotFound] if there is none. Whoever declares or adds it anew does not resume it.
func (c *Cron) Pause(ctx context.Context, name string) error {
	if c.client.fault != nil {
		return c.client.fault
	}
	found, err := c.client.queue.Suspend(ctx, name, "paused", "1")
	return c.found(name, found, err)
}

// Resume lets a paused entry fire again, from its next time on: what passed meanwhile is not made up for.
func (c *Cron) Resume(ctx context.Context, name string) error {
	hash, err := c.read(ctx, name)
	if err != nil {
		return err
	}
	schedule, err := cron.Parse(hash["schedule"], hash["zone"])
	if err != nil {
		return fmt.Errorf("%w: cron entry %q: %w", ErrInvalid, name, err)
	}
	now, err := c.client.queue.Now(ctx)
	if err != nil {
		return public(err)
	}
	found, err := c.client.queue.ResumeEntry(ctx, name, schedule.Next(now).UnixMilli())
	return c.found(name, found, err)
}

func (c *Cron) found(name string, found bool, err error) error {
	if err == nil && !found {
		err = fmt.Errorf("cron entry %q in queue %q: %w", name, c.client.Queue(), store.ErrMissing)
	}
	return public(err)
}

// Remove removes an entry; one that is gone already is no error. Tasks that it started are not touched. A runner that declares it writes it
// again at its next start.
func (c *Cron) Remove(ctx context.Context, name string) error {
	if c.client.fault != nil {
		return c.client.fault
	}
	return public(c.client.queue.RemoveEntry(ctx, name))
}

// Run starts an entry's task now, whatever its schedule says, also if it is paused, and returns the task's ID. The schedule is not changed,
// and the start does not count as its last one.
func (c *Cron) Run(ctx context.Context, name string) (string, error) {
	hash, err := c.read(ctx, name)
	if err != nil {
		return "", err
	}
	task, err := cron.NewTask(name, hash)
	if err != nil {
		return "", fmt.Errorf("%w: cron entry %q: %w", ErrInvalid, name, err)
	}
	task.ID = newID()
	if err := c.client.announce(ctx); err != nil {
		return "", public(err)
	}
	id, err := c.client.starter.start(ctx, task)
	if err != nil {
		return "", public(fmt.Errorf("run cron entry %q: %w", name, err))
	}
	return id, nil
}

// checkTask is for names of tasks that others start.
func checkTask(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if strings.HasPrefix(name, reservedApp) {
		return fmt.Errorf("%w: task name %q: tasks of redtask/ belong to the runners, which start them themselves", ErrInvalid, name)
	}
	return nil
}
