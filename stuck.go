package redtask

import (
	"bytes"
	"regexp"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"
)

// reportStuck says what an operator needs to find the code that ignores its ctx.
func (e *engine) reportStuck(r *Run, method string) {
	r.Logger().Error("the task ignores that it was told to stop: it keeps its slot until it returns; mind ctx.Done() in it",
		"method", method, "stack", stuckStacks.of(r))
	if err := r.publish(EventStuck, []byte(`{"method":`+quote(method)+`}`)); err == nil {
		e.committer.count("stuck")
	}
}

// stuckStacks is one for the process, as its goroutines are.
var stuckStacks stacks

// stacks finds the stacks of tasks by the profiler labels of their goroutines. When a lease is lost or a runner shuts down, all tasks that
// hang are reported in the same moment: they share one profile, since each walks all goroutines.
type stacks struct {
	mu    sync.Mutex
	taken time.Time
	until time.Time // it serves those who ask before that
	byID  map[string]string
}

const freshStacks = time.Second

func (s *stacks) of(r *Run) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil || time.Now().After(s.until) || s.taken.Before(r.born) {
		s.take()
	}
	if stack, ok := s.byID[r.id]; ok {
		return stack
	}
	return "unknown: the goroutine is gone"
}

var stackLabel = regexp.MustCompile(`"redtask_id": ?("(?:[^"\\]|\\.)*")`)

func (s *stacks) take() {
	s.taken, s.byID = time.Now(), map[string]string{}
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return // a buffer takes all
	}
	for stack := range bytes.SplitSeq(profile.Bytes(), []byte("\n\n")) {
		if label := stackLabel.FindSubmatch(stack); label != nil {
			id, _ := strconv.Unquote(string(label[1]))                         // quoted by the profiler
			s.byID[id] = truncate(s.byID[id]+string(stack)+"\n", maxErrorText) // a task may have several
		}
	}
	s.until = time.Now().Add(freshStacks) // from now: with very many goroutines a profile takes that long
	time.AfterFunc(2*freshStacks, s.forget)
}

// forget frees what may be many megabytes.
func (s *stacks) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID = nil
}
