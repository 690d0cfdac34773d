package main

import (
	"flag"
	"strconv"
)

// task is what a child process is told to do; see the roles.
type task struct {
	role        string // worker, producer or watcher
	mode        string // which of the role's ways
	system      string
	addr        string
	concurrency int // of a worker's tasks, or a producer's goroutines
	n           int // tasks; 0 for a worker: none is waited for
	size        int // bytes of a task's data
	events      int // that each task emits
	queues      int // that the tasks are spread over; 0 as 1
}

func (t *task) flags() *flag.FlagSet {
	set := flag.NewFlagSet("bench "+t.role, flag.ContinueOnError)
	set.StringVar(&t.mode, "mode", "", "what it does")
	set.StringVar(&t.system, "system", "", "name of the system")
	set.StringVar(&t.addr, "addr", "", "address of Redis")
	set.IntVar(&t.concurrency, "concurrency", 1, "tasks, or starts, at a time")
	set.IntVar(&t.n, "n", 0, "number of tasks")
	set.IntVar(&t.size, "size", defaultSize, "bytes of a task's data")
	set.IntVar(&t.events, "events", 0, "events that each task emits")
	set.IntVar(&t.queues, "queues", 1, "queues that the tasks are spread over")
	return set
}

func (t *task) args() []string {
	return []string{
		t.role, "-mode", t.mode, "-system", t.system, "-addr", t.addr, "-concurrency", strconv.Itoa(t.concurrency), "-n", strconv.Itoa(t.n),
		"-size", strconv.Itoa(t.size), "-events", strconv.Itoa(t.events), "-queues", strconv.Itoa(t.queues),
	}
}

// report is a line of JSON that a child writes to its standard output.
type report struct {
	Event       string  `json:"event"`
	Error       string  `json:"error,omitempty"`
	Unsupported bool    `json:"unsupported,omitempty"`
	Seconds     float64 `json:"seconds,omitempty"`
	Latency     float64 `json:"latency,omitempty"` // ms
	Count       int     `json:"count,omitempty"`
	Lost        int     `json:"lost,omitempty"`
	Disordered  int     `json:"disordered,omitempty"`
	Gaps        int     `json:"gaps,omitempty"`
	Ended       int     `json:"ended,omitempty"`
	Usage       usage   `json:"usage"` // CPU of the measured span, memory at its end
}

// The events of reports, and the words that a child is told on its standard input. A child ends when that is closed.
const (
	eventUp      = "up"
	eventAll     = "all" // all tasks run
	eventHandled = "handled"
	eventDone    = "done"

	wordNext = "next"
	wordGo   = "go"
	wordEnd  = "end"
)
