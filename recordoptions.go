package redtask

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// recordOptions is the field `options` of a record: what the start of a task says beside its name and data.
type recordOptions struct {
	Priority   Priority          `json:"priority,omitempty"`
	Key        string            `json:"key,omitempty"`
	Ordered    bool              `json:"ordered,omitempty"`
	Once       *onceOptions      `json:"once,omitempty"`
	Retry      *retryOptions     `json:"retry,omitempty"`
	Supervise  *superviseOptions `json:"supervise,omitempty"`
	TimeoutMS  int64             `json:"timeout_ms,omitempty"`
	DeadlineAt int64             `json:"deadline_at,omitempty"` // Unix ms
	Headers    map[string]string `json:"headers,omitempty"`
}

type backoffOptions struct {
	FirstMS  int64   `json:"first_ms,omitempty"`
	DelaysMS []int64 `json:"delays_ms,omitempty"`
	MaxMS    int64   `json:"max_ms,omitempty"`
}

type retryOptions struct {
	Attempts int  `json:"attempts"`
	Failures bool `json:"failures,omitempty"`
	backoffOptions
}

type superviseOptions struct {
	Restart     RestartPolicy `json:"restart,omitempty"`
	StableMS    int64         `json:"stable_ms,omitempty"`
	MaxRestarts int           `json:"max_restarts,omitempty"`
	WithinMS    int64         `json:"within_ms,omitempty"`
	backoffOptions
}

func (b *Backoff) options(longest time.Duration) backoffOptions {
	o := backoffOptions{FirstMS: b.first.Milliseconds(), MaxMS: longest.Milliseconds()}
	for _, delay := range b.delays {
		o.DelaysMS = append(o.DelaysMS, delay.Milliseconds())
	}
	return o
}

func (o *backoffOptions) backoff() (Backoff, time.Duration) {
	b := Backoff{first: ms(o.FirstMS)}
	for _, delay := range o.DelaysMS {
		b.delays = append(b.delays, ms(delay))
	}
	return b, ms(o.MaxMS)
}

// ms is the longest Duration, of 292 years, for more than that.
func ms(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(max(-most, min(n, most))) * time.Millisecond
}

func (r *Retry) options() *retryOptions {
	if r == nil {
		return nil
	}
	return &retryOptions{Attempts: r.Attempts, Failures: r.Failures, backoffOptions: r.Backoff.options(r.MaxDelay)}
}

func (o *retryOptions) policy() *Retry {
	if o == nil {
		return nil
	}
	r := &Retry{Attempts: o.Attempts, Failures: o.Failures}
	r.Backoff, r.MaxDelay = o.backoff()
	return r
}

func (s *Supervise) options() *superviseOptions {
	if s == nil {
		return nil
	}
	return &superviseOptions{
		Restart: s.Restart, StableMS: s.StableAfter.Milliseconds(), MaxRestarts: s.MaxRestarts, WithinMS: s.Within.Milliseconds(),
		backoffOptions: s.Backoff.options(s.MaxDelay),
	}
}

func (o *superviseOptions) policy() *Supervise {
	if o == nil {
		return nil
	}
	s := &Supervise{Restart: o.Restart, StableAfter: ms(o.StableMS), MaxRestarts: o.MaxRestarts, Within: ms(o.WithinMS)}
	s.Backoff, s.MaxDelay = o.backoff()
	return s
}

// parseOptions reads what the record of a task says. Anyone may have written it: what is wrong there is told, all faults at once. Names that
// this version does not know are left to later ones.
func parseOptions(text string) (*recordOptions, error) {
	o := &recordOptions{}
	if err := json.Unmarshal([]byte(text), o); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = fmt.Errorf("field %q cannot be of the JSON type %s (the field \"\" is all of them, an object)", wrong.Field, wrong.Value)
		}
		return o, fmt.Errorf("the task's options are not what they should be: %w; see docs/protocol.md", err)
	}
	const where = "the task's options"
	faults := append(o.Retry.policy().faults(where), o.Supervise.policy().faults(where)...)
	if o.Retry != nil && o.Supervise != nil {
		faults = append(faults, fmt.Errorf("%w: %s: both retry and supervise: use one of them", ErrInvalid, where))
	}
	if o.TimeoutMS < 0 || o.DeadlineAt < 0 {
		faults = append(faults, fmt.Errorf("%w: %s: timeout_ms and deadline_at must not be negative", ErrInvalid, where))
	}
	return o, errors.Join(append(faults, checkPlacing(where, o.Priority, o.Key, o.Ordered)...)...)
}

// startOptions are those of them that an entry of the schedule may have.
func (o *recordOptions) startOptions() StartOptions {
	return StartOptions{
		Priority: o.Priority, Key: o.Key, Ordered: o.Ordered, Retry: o.Retry.policy(), Supervise: o.Supervise.policy(), Timeout: ms(o.TimeoutMS),
		Headers: o.Headers,
	}
}

// terms are what holds for a run: what the registration of its name says and, before that, its start. They do not change.
type terms struct {
	retry     *Retry
	supervise *Supervise
	timeout   time.Duration
	deadline  int64 // Unix ms by Redis' clock; 0: none
	headers   map[string]string
	key       string
	refused   error        // why it must not run
	restarts  string       // of late, as its record has them
	extra     *store.Extra // what they were made of; nil for a plain start
}

func termsOf(e *entry, claim *store.Claim) *terms {
	switch {
	case claim.Extra == nil && e != nil:
		return &e.terms
	case claim.Extra == nil:
		return &terms{}
	}
	t := &terms{}
	if e != nil {
		*t = e.terms
	}
	t.extra, t.restarts, t.refused = claim.Extra, claim.Extra.Restarts, refusal(claim.Extra)
	if claim.Extra.Options != "" {
		t.apply(claim.Extra.Options)
	}
	return t
}

// apply lets what a start said take precedence.
func (t *terms) apply(text string) {
	o, err := parseOptions(text)
	if err != nil {
		t.refused = err
		return
	}
	if o.Retry != nil {
		t.retry, t.supervise = o.Retry.policy().withDefaults(), nil
	}
	if o.Supervise != nil {
		t.supervise, t.retry = o.Supervise.policy().withDefaults(), nil
	}
	if o.TimeoutMS > 0 {
		t.timeout = ms(o.TimeoutMS)
	}
	t.deadline, t.headers, t.key = o.DeadlineAt, o.Headers, o.Key
}
