package redtask

import (
	"encoding/json"
	"fmt"
	"time"
)

// Limits bound how many tasks of a name run at once, and how many begin in a time, across all runners of the queue. A task that comes to
// its turn and may not begin is held back, those behind it are not, and it comes to the front of the line when it may. The places belong to the
// runs: when a runner dies its places are free as soon as its tasks are taken over. Each runner applies what its own registration says. The zero
// value limits nothing.
type Limits struct {
	// Concurrency is how many tasks of the name run at once. Default 0: as many as the runners have slots for.
	Concurrency int
	// KeyConcurrency is the same for each [StartOptions.Key] of the name.
	KeyConcurrency int
	// Rate is how many tasks of the name begin in a time. Retries count, and so do runs that were cut short.
	Rate Rate
	// KeyRate is the same for each [StartOptions.Key] of the name.
	KeyRate Rate
}

// Rate is N runs that begin in each interval of length Per, wherever that begins: a sliding window, by the clock of Redis. The zero value is
// no limit.
type Rate struct {
	N   int           // 1 to 100,000
	Per time.Duration // at least 1 ms
}

const maxRate = 100_000

func (l *Limits) isZero() bool { return *l == Limits{} }

func (l *Limits) faults(where string) []error {
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s: Limits.%s", ErrInvalid, where, fmt.Sprintf(format, args...)))
	}
	if l.Concurrency < 0 || l.KeyConcurrency < 0 {
		add("Concurrency %d, KeyConcurrency %d: must not be negative; 0 is no limit", l.Concurrency, l.KeyConcurrency)
	}
	for name, rate := range map[string]Rate{"Rate": l.Rate, "KeyRate": l.KeyRate} {
		if rate != (Rate{}) && (rate.N < 1 || rate.N > maxRate || rate.Per < time.Millisecond) {
			add("%s of %d in %s: use 1 to %d in at least 1ms", name, rate.N, rate.Per, maxRate)
		}
	}
	return faults
}

// limitSpec is what holds.lua wants to know of a name.
type limitSpec struct {
	Concurrency    int   `json:"concurrency,omitempty"`
	KeyConcurrency int   `json:"key_concurrency,omitempty"`
	Rate           int   `json:"rate,omitempty"`
	PerMS          int64 `json:"per_ms,omitempty"`
	KeyRate        int   `json:"key_rate,omitempty"`
	KeyPerMS       int64 `json:"key_per_ms,omitempty"`
}

// encodeLimits is what a runner says of its names in Redis; "" if none has limits.
func encodeLimits(entries map[string]*entry) string {
	specs := map[string]limitSpec{}
	for name, entry := range entries {
		if l := &entry.options.Limits; !l.isZero() {
			specs[name] = limitSpec{
				Concurrency: l.Concurrency, KeyConcurrency: l.KeyConcurrency, Rate: l.Rate.N, PerMS: l.Rate.Per.Milliseconds(),
				KeyRate: l.KeyRate.N, KeyPerMS: l.KeyRate.Per.Milliseconds(),
			}
		}
	}
	if len(specs) == 0 {
		return ""
	}
	encoded, _ := json.Marshal(specs) // strings and numbers always encode
	return string(encoded)
}
