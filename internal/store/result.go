package store

import (
	"errors"
	"slices"
	"strings"
)

// Outcome says what became of a whole batch.
type Outcome int

const (
	Applied      Outcome = iota
	Replayed             // it had been applied before: the answer was lost, so what it claimed must be looked up
	Unregistered         // the runner's lease is gone, nothing was done
	Early                // the batch that must be applied first has not come yet, nothing was done
)

// Result is what a commit did.
type Result struct {
	Outcome Outcome
	Now     int64    // Redis' clock, Unix ms
	Codes   []string // one per fenced item: ok, lost, stopped, broken:message, away:message
	Claims  []Claim
	Drops   []Drop
	Faults  []string // keys of the wrong type and the like
	More    bool     // the claim was filled: more may be in line
	Paused  bool     // the queue is: nothing is claimed
	NextDue int64    // Unix ms: when a rate lets the next task begin; 0: nothing waits for that
}

// Broken is the error that a code `broken:message` tells.
func Broken(code string) error { return explain(errors.New(strings.TrimPrefix(code, "broken:"))) }

// Claim is one claimed task.
type Claim struct {
	ID, Task, Data string
	Epoch          int64
	Attempt        int
	Keep           bool
	Reload         bool // a reload was asked for and has not happened yet
	Extra          *Extra
}

// Extra is what the claims of a few have.
type Extra struct {
	Options  string // JSON, what its start said beside name and data; "": nothing
	Restarts string // when it was restarted, Unix ms, the last one at the end
	Refused  string // why it must not run: "expired", or the fault of a key that it would need; "": it may
}

// Drop is an ID that was in line and could not be run.
type Drop struct{ ID, Reason string }

func parseCommit(reply any, fenced int) (*Result, error) {
	values, err := list(reply)
	if err != nil || len(values) == 0 {
		return nil, badReply("commit", reply)
	}
	switch {
	case text(values[0]) == "unregistered":
		return &Result{Outcome: Unregistered}, nil
	case text(values[0]) == "early":
		return &Result{Outcome: Early}, nil
	case text(values[0]) == "replayed" && len(values) == 2:
		return &Result{Outcome: Replayed, Now: number(values[1])}, nil
	case text(values[0]) != "ok" || len(values) != 8 && len(values) != 10:
		return nil, badReply("commit", reply)
	}
	result := &Result{Now: number(values[1]), Faults: texts(values[6]), More: number(values[7]) == 1, Paused: number(values[7]) == -1}
	if !result.readCodes(values[2], fenced) || !result.readClaims(values[3], number(values[4])) || !result.readDrops(values[5]) {
		return nil, badReply("commit", reply)
	}
	if len(values) == 10 {
		result.NextDue = dueTime(values[9])
		if !result.readExtras(values[8]) {
			return nil, badReply("commit", reply)
		}
	}
	return result, nil
}

// readExtras: what only few claims have.
func (r *Result) readExtras(reply any) bool {
	extras := texts(reply)
	for ; len(extras) >= 4; extras = extras[4:] {
		i := number(extras[0])
		if i < 1 || i > int64(len(r.Claims)) {
			return false
		}
		c := &r.Claims[i-1]
		c.Extra = &Extra{Options: extras[1], Restarts: extras[2], Refused: extras[3]}
	}
	return len(extras) == 0
}

// readCodes: only what is not simply done is in the reply.
func (r *Result) readCodes(reply any, fenced int) bool {
	codes, _ := reply.([]any)
	r.Codes = slices.Repeat([]string{"ok"}, fenced)
	for ; len(codes) >= 2; codes = codes[2:] {
		i := number(codes[0])
		if i < 1 || i > int64(fenced) {
			return false
		}
		r.Codes[i-1] = text(codes[1])
	}
	return len(codes) == 0
}

func (r *Result) readClaims(reply any, lastEpoch int64) bool {
	const width = 5
	claims, _ := reply.([]any)
	n := len(claims) / width
	if n*width != len(claims) {
		return false
	}
	r.Claims = make([]Claim, n)
	for i := range r.Claims {
		c := claims[i*width : (i+1)*width]
		marks := text(c[4])
		r.Claims[i] = Claim{
			ID: text(c[0]), Epoch: lastEpoch - int64(n-1-i), Attempt: int(number(c[1])), Task: text(c[2]), Data: text(c[3]),
			Keep: strings.Contains(marks, "k"), Reload: strings.Contains(marks, "r"),
		}
	}
	return true
}

func (r *Result) readDrops(reply any) bool {
	drops := texts(reply)
	for ; len(drops) >= 2; drops = drops[2:] {
		r.Drops = append(r.Drops, Drop{ID: drops[0], Reason: drops[1]})
	}
	return len(drops) == 0
}
