package main

import (
	"context"
	"regexp"
	"slices"
)

// workload is one thing that is measured for each system.
type workload struct {
	name       string
	about      string
	noun       string   // what the parameter counts
	parameters []string // of a full run
	quick      []string // of a quick one; none: it is left out
	few        []string // the systems of a quick run; none: all
	once       bool     // repeats would not differ
	together   bool     // all systems at once: they do next to nothing, and wait long
	run        func(ctx context.Context, m *measurement) error
}

func workloads() []workload {
	return []workload{
		{
			name: "drain", noun: "concurrency", parameters: []string{"10", "100", "1000"}, quick: []string{"100"}, run: drain,
			about: "One worker process runs the no-op tasks that wait in line: from its start, with a connection up, until every completion is in Redis.",
		},
		{
			name: "start", noun: "producers", parameters: []string{"1", "32"}, quick: []string{"1", "32"}, run: start,
			about: "Goroutines of one process start tasks, one by one.",
		},
		{
			name: "bulk", noun: "tasks a call", parameters: []string{"1000"}, quick: []string{"1000"}, run: bulk,
			about: "One goroutine starts tasks in bulk.",
		},
		{
			name: "pick-up", noun: "tasks at a time", parameters: []string{"1"}, quick: []string{"1"}, few: []string{subject, "asynq", "taskq"}, run: pickUp,
			about: "The call that starts a task begins in one process, its handler begins in another, which is idle: a pause of 5 to 50 ms is before each.",
		},
		{
			name: "delayed", noun: "tasks", parameters: []string{"200"}, together: true, run: delayed,
			about: "How far from its due time a delayed task's handler begins.",
		},
		{
			name: "memory", noun: "bytes of data", parameters: []string{"40", "65", "200"}, quick: []string{"40"}, once: true, run: memory,
			about: "What Redis holds for each task in line.",
		},
		{
			name: "idle", noun: "workers", parameters: []string{"1"}, quick: []string{"1"}, once: true, together: true, run: idle,
			about: "What a worker does in Redis that has nothing to do.",
		},
		{
			name: "running", noun: "tasks", parameters: []string{"10", "10000"}, quick: []string{"10000"}, few: []string{subject, "asynq"}, run: running,
			about: "Tasks that do not end: how soon all run, from the worker's start with all of them in line, and what they then cost.",
		},
		{
			name: "crowd", noun: "tasks", parameters: []string{"100000"}, run: crowd,
			about: "As above, for very many. Memory is what the process has beyond that of an idle worker.",
		},
		{
			name: "emit", noun: "tasks", parameters: []string{"1000"}, run: emit,
			about: "All tasks publish events at once; one watcher in a process of its own gets them all.",
		},
	}
}

// takes reports whether a system is measured with this workload.
func (w *workload) takes(e *entrant, quick bool) bool {
	if quick && len(w.few) > 0 && !slices.Contains(w.few, e.name) {
		return false
	}
	return e.takesPart(w.name)
}

func (w *workload) title(parameter string) string {
	return w.name + ", " + w.noun + ": " + parameter
}

// chooseWorkloads picks those whose name and parameter, as in `drain/100`, match; for a quick run only the main ones.
func chooseWorkloads(all []workload, only *regexp.Regexp, quick bool) []workload {
	var chosen []workload
	for _, w := range all {
		parameters := w.parameters
		if quick {
			parameters = w.quick
		}
		w.parameters = nil
		for _, parameter := range parameters {
			if only.MatchString(w.name + "/" + parameter) {
				w.parameters = append(w.parameters, parameter)
			}
		}
		if len(w.parameters) > 0 {
			chosen = append(chosen, w)
		}
	}
	return chosen
}
