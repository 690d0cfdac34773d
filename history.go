package redtask

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// Attempt is a run of a task that was not its last one; see [Record.History].
type Attempt struct {
	Number    int       `json:"attempt"`
	State     State     `json:"state"`           // what it would have ended in
	Error     string    `json:"error,omitempty"` // at most 1 KiB of it
	Runner    string    `json:"runner"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
}

// attemptRecord is an attempt as the fields `history0` to `history9` have it: a ring, so that it stays small and no script must read it.
type attemptRecord struct {
	Attempt   int    `json:"attempt"`
	State     State  `json:"state"`
	Error     string `json:"error,omitempty"`
	Runner    string `json:"runner"`
	StartedAt int64  `json:"started_at"`
	EndedAt   int64  `json:"ended_at"`
}

func historyField(attempt int) string { return "history" + strconv.Itoa(attempt%historySize) }

func newHistory(hash map[string]string) []Attempt {
	var history []Attempt
	for i := range historySize {
		var a attemptRecord
		if text := hash[historyField(i)]; text == "" || json.Unmarshal([]byte(text), &a) != nil {
			continue
		}
		history = append(history, Attempt{a.Attempt, a.State, a.Error, a.Runner, time.UnixMilli(a.StartedAt), time.UnixMilli(a.EndedAt)})
	}
	slices.SortFunc(history, func(a, b Attempt) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.Number, b.Number))
	})
	return history
}

// later ends a run whose task runs again: until then the record tells why.
func (r *Run) later(following *next) *store.Leave {
	now, text := r.engine.now(), ""
	fields := following.fields
	if following.err != nil {
		text = truncate(following.err.Error(), maxErrorText)
		fields = append(fields, "error", text)
	}
	attempt, _ := json.Marshal(attemptRecord{ // strings and numbers always encode
		Attempt: r.attempt, State: following.state, Error: truncate(text, maxHistoryError), Runner: r.engine.runnerID,
		StartedAt: now - time.Since(r.born).Milliseconds(), EndedAt: now,
	})
	fields = append(fields, historyField(r.attempt), string(attempt))
	data, _ := json.Marshal(struct { // as above
		Reason  string `json:"reason"`
		Attempt int    `json:"attempt"`
		Error   string `json:"error,omitempty"`
		DelayMS int64  `json:"delay_ms"`
	}{following.reason, r.attempt, text, following.delay.Milliseconds()})
	return &store.Leave{
		State: string(StateScheduled), Delay: following.delay.Milliseconds(), Keep: r.keep, Holds: r.holds, Fields: fields, Event: r.lastEvent(data),
	}
}

// RetryIn tells, from when an exception handler is called on, whether the task runs again, and after how long: an application may alert
// on the last failure only. Before, in the task and in [Middleware], it says no.
func (r *Run) RetryIn() (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.retryIn, r.retries
}
