package chaos

import (
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

// settled reports whether a task is final, or is not there although nobody was told that it is.
func (l *load) settled(id string, reply redis.Cmder) bool {
	values, ok := reply.(*redis.SliceCmd)
	if !ok {
		return false
	}
	state, _ := values.Val()[0].(string)
	task, _ := values.Val()[1].(string)
	local, _ := values.Val()[2].(string)
	if redtask.State(state).Final() || local != "" {
		return true
	}
	s := l.tasks[id]
	if s == nil { // a local one's key goes with its runner; junk is not for this check
		return task == ""
	}
	// A start in two commands whose second did not work leaves a hash that is not in line: that is its starter's to know.
	return task == "" && (s.at == 0 || l.world.excused(s.called, s.at)) || s.raw && s.at == 0 && state == ""
}

// lossy reports whether Redis may have lost writes in this world.
func (w *world) lossy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.breaks) > 0
}

// lossWindow is how long before a break of Redis an acknowledged write may be lost.
const lossWindow = 2 * time.Second

// readLate is how long after Redis broke an answer that it had given may be read, on a busy machine. No other server answers so soon.
const readLate = 100 * time.Millisecond

// excused reports whether what was called and acknowledged at these times may be lost: Redis broke soon after, or before the answer was read.
func (w *world) excused(called, at int64) bool { return w.beforeBreak(called, at) < lossWindow }

// beforeBreak is how long after a call was acknowledged Redis broke next; 0 if the answer was read after that.
func (w *world) beforeBreak(called, at int64) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := time.Duration(math.MaxInt64)
	for _, b := range w.breaks {
		if b >= called && at < b+int64(readLate) {
			next = min(next, time.Duration(max(0, b-at)))
		}
	}
	return next
}

// sinceBreak says when something was, in terms of the last time before it, and the first after it, that Redis broke.
func (w *world) sinceBreak(at int64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := ""
	for _, b := range w.breaks {
		text += fmt.Sprintf(" %+.2f s", float64(at-b)/1e9)
	}
	if text != "" {
		text += " from when Redis broke"
	}
	return text
}
