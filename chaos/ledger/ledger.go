// Package ledger keeps, outside of Redis, what really happened: each process appends to a file of its own, so that a line is there even
// if the process is killed right after it. All times are of one clock, the machine's.
package ledger

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// The kinds of lines.
const (
	Up         = "up"         // a worker process began
	Runner     = "runner"     // its runner has an ID
	Down       = "down"       // a worker process has ended; written by whoever waited for it
	Freeze     = "freeze"     // a worker process stands still
	Thaw       = "thaw"       // it goes on
	Begin      = "begin"      // Start of a run was called
	End        = "end"        // it is about to return; Cause says why, Done that it had finished its work
	Checkpoint = "checkpoint" // a write of a run: sent at At, answered at Answered; N is what it wrote
	Loaded     = "loaded"     // N is the checkpoint that a run found
	Kill       = "kill"       // a worker is about to be killed
	Rest       = "rest"       // a worker has shut down: what its heap still holds
	Leak       = "leak"       // goroutines that a worker left behind
	Gauge      = "gauge"      // what a worker uses
)

// Done is the cause of an end that nobody asked for: the work is finished.
const Done = "done"

// Line is one thing that happened.
type Line struct {
	At         int64  `json:"at"` // ns; see Now
	Kind       string `json:"kind"`
	PID        int    `json:"pid,omitempty"`
	Runner     string `json:"runner,omitempty"`
	Task       string `json:"task,omitempty"` // the name
	ID         string `json:"id,omitempty"`
	Epoch      int64  `json:"epoch,omitempty"`
	Attempt    int    `json:"attempt,omitempty"`
	Cause      string `json:"cause,omitempty"`
	Answered   int64  `json:"answered,omitempty"`
	N          int64  `json:"n,omitempty"`
	Error      string `json:"error,omitempty"`
	Goroutines int    `json:"goroutines,omitempty"`
	Heap       int64  `json:"heap,omitempty"` // bytes in use after a collection
}

// Now is CLOCK_MONOTONIC in ns: the same for all processes of a machine, whatever somebody does to the wall clock.
func Now() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(fmt.Sprintf("read the clock: %v", err)) // it has no other source
	}
	return now.Nano()
}

// Writer appends lines; its methods may be called from any goroutine.
type Writer struct {
	mu   sync.Mutex
	file *os.File
}

// Open makes a file of its own in dir for this process.
func Open(dir string) (*Writer, error) {
	file, err := os.CreateTemp(dir, fmt.Sprintf("%d-*.jsonl", os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &Writer{file: file}, nil
}

// Add appends a line, which the kernel has when Add returns. Its time is now unless it has one.
func (w *Writer) Add(l Line) {
	if l.At == 0 {
		l.At = Now()
	}
	if l.PID == 0 {
		l.PID = os.Getpid()
	}
	text, err := json.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("encode ledger line %+v: %v", l, err)) // a run without a ledger proves nothing
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.file.Write(append(text, '\n')); err != nil {
		panic(fmt.Sprintf("write ledger: %v", err))
	}
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }

// Read reads the lines of all processes, unsorted.
func Read(dir string) ([]Line, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	var lines []Line
	for _, path := range paths {
		if lines, err = readFile(lines, path); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// readFile leaves out a last line that its process could not finish.
func readFile(lines []Line, path string) ([]Line, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var l Line
		if json.Unmarshal(scanner.Bytes(), &l) == nil {
			lines = append(lines, l)
		}
	}
	return lines, scanner.Err()
}
