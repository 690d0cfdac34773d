package chaos

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/redtask/redtask"
)

const newTask = "chaos/new" // only the newer version of the worker has it

// part is what a fault disturbs: in a mix no two faults disturb the same at a time.
type part string

const (
	inWorkers part = "workers"
	inRedis   part = "redis"
	inWires   part = "wires"
	inTasks   part = "tasks"
)

// fault is one way to break things. inject breaks something, waits, and mends it.
type fault struct {
	name   string
	what   string // for the table
	part   part
	kind   kind
	inject func(w *world)
	begin  func(w *world) // before the workers start
	wishes []wish         // further tasks of the load

	breaksRedis bool // events may be missed, or come twice
	loses       bool // Redis may lose what it acknowledged
	prompt      bool // the bound of recovery holds: others live to see a runner die
	stuck       bool // tasks are reported as stuck
	slow        bool // needs longer than others
	exits       []int
}

// faults are all that there are.
func faults() []fault {
	return slices.Concat(workerFaults(), deployFaults(), redisFaults(), wireFaults(), taskFaults(), clockFaults(), clusterFaults())
}

func workerFaults() []fault {
	return []fault{
		{name: "kill-one", what: "SIGKILL of one worker", part: inWorkers, prompt: true, inject: func(w *world) {
			w.pick().kill()
			w.wait(w.between(500*time.Millisecond, 2*time.Second))
		}},
		{name: "kill-all", what: "SIGKILL of all workers at once", part: inWorkers, inject: killAll},
		{name: "freeze", what: "SIGSTOP of a worker for longer than its lease", part: inWorkers, slow: true, inject: func(w *world) {
			freeze(w, w.between(lease, lease+2*time.Second), syscall.SIGCONT)
		}},
		{name: "freeze-short", what: "SIGSTOP of a worker for less than its lease", part: inWorkers, inject: func(w *world) {
			freeze(w, w.between(100*time.Millisecond, lease), syscall.SIGCONT)
		}},
		{name: "freeze-kill", what: "SIGSTOP of a worker, then SIGKILL", part: inWorkers, slow: true, inject: func(w *world) {
			freeze(w, w.between(100*time.Millisecond, lease+2*time.Second), syscall.SIGKILL)
		}},
	}
}

func killAll(w *world) {
	for _, p := range w.places {
		p.hold(true)
	}
	for _, p := range w.places {
		p.signal(syscall.SIGKILL)
	}
	for _, p := range w.places {
		p.kill()
		p.hold(false)
	}
	w.wait(w.between(time.Second, 3*time.Second))
}

func freeze(w *world, d time.Duration, then syscall.Signal) {
	p := w.pick()
	r := p.signal(syscall.SIGSTOP)
	w.wait(d)
	if r != nil {
		p.signal(then)
	}
	w.wait(w.between(200*time.Millisecond, time.Second))
}

func deployFaults() []fault {
	newer := wish{weight: 10, task: newTask, data: map[string]any{"ms": 50, "field_of_tomorrow": 1}, ends: ended}
	return []fault{
		{name: "deploy", what: "SIGTERM of one worker after the other", part: inWorkers, inject: func(w *world) {
			for _, p := range w.places {
				p.shutdown()
				w.wait(w.between(100*time.Millisecond, 500*time.Millisecond))
			}
		}},
		{
			name: "versions", what: "deploys to and fro between two versions: a new task name, new fields", part: inWorkers, wishes: []wish{newer},
			begin: func(w *world) {
				w.places[0].set(func(s *settings) { s.Version = "b" })
				for _, p := range w.places[1:] {
					p.hold(true)
				}
			},
			inject: func(w *world) {
				w.insist("a runner of the new version", w.knowsNewer)
				for _, p := range w.places[1:] { // the first one has the new version all the while: else the name would be unknown
					p.hold(false)
					p.set(func(s *settings) { s.Version = map[string]string{"": "b", "b": ""}[s.Version] })
					p.shutdown()
					w.wait(w.between(200*time.Millisecond, 600*time.Millisecond))
				}
			},
		},
		{name: "protocol", what: "a worker meets another version of the protocol", part: inWorkers, inject: otherProtocol, exits: []int{exitProtocol}},
	}
}

// knowsNewer reports whether a runner knows the task name of the new version.
func (w *world) knowsNewer(ctx context.Context) error {
	runners, err := w.client.Runners(ctx)
	if err == nil && !slices.ContainsFunc(runners, func(r redtask.RunnerRecord) bool { return slices.Contains(r.Tasks, newTask) }) {
		err = errors.New("none is there")
	}
	return err
}

// taskFaults are tasks that misbehave, whose inject only lets time pass, and a queue that is paused.
func taskFaults() []fault {
	pass := func(w *world) { w.wait(time.Second) }
	where := func(weight int, place string, ends wish) wish {
		ends.weight, ends.task, ends.data = weight, "chaos/panic", map[string]any{"where": place, "ms": 20}
		return ends
	}
	return []fault{
		{
			name: "deaf", what: "tasks that ignore their ctx, with kills and deploys", part: inTasks, stuck: true, slow: true, exits: []int{exitStuck},
			wishes: []wish{{weight: 6, task: "chaos/deaf", data: map[string]any{"ms": 4000}, ends: ended}},
			inject: func(w *world) {
				w.pick().shutdown()
				w.wait(time.Second)
				w.pick().kill()
				w.wait(time.Second)
			},
		},
		{
			name: "panic", what: "panics in Init, Start, Stop, ProvideContext, its release", part: inTasks, inject: pass,
			wishes: []wish{
				where(10, "init", wish{ends: exception}), where(10, "start", wish{ends: exception}), where(10, "release", wish{ends: ended}),
				where(10, "none", wish{ends: exception, id: "context-"}), where(1, "stop", wish{ends: exception, stop: true}),
			},
		},
		{
			name: "exit", what: "tasks that end the process once, or each time", part: inTasks, inject: func(w *world) { w.wait(time.Second) }, slow: true,
			exits: []int{exitTask},
			wishes: []wish{
				{weight: 2, task: "chaos/exit", data: map[string]any{"times": 1}, ends: ended, most: 20},
				{weight: 2, task: "chaos/exit", data: map[string]any{"times": 1_000_000}, ends: exception, most: 2},
			},
		},
		{
			name: "flood", what: "tasks that emit 10,000 events/s", part: inTasks, inject: pass,
			wishes: []wish{{weight: 3, task: "chaos/flood", data: map[string]any{"ms": 1000}, ends: ended}},
		},
		{
			name: "big", what: "tasks that return 10 MiB, or more than is allowed", part: inTasks, inject: pass,
			wishes: []wish{
				{weight: 1, task: "chaos/big", data: map[string]any{"bytes": 10 << 20}, ends: ended},
				{weight: 1, task: "chaos/big", data: map[string]any{"bytes": 13 << 20}, ends: exception},
			},
		},
		{name: "pause", what: "the queue paused for up to 2 s, with kills", part: inTasks, inject: func(w *world) {
			w.pause(w.between(100*time.Millisecond, 2*time.Second))
			w.wait(w.between(200*time.Millisecond, time.Second))
			w.pick().kill()
		}},
	}
}

func clockFaults() []fault {
	return []fault{
		{
			name: "clock-workers", what: "workers whose wall clocks are up to an hour off, killed meanwhile", part: inWorkers, prompt: true,
			begin: func(w *world) {
				for i, p := range w.places {
					p.skew = []time.Duration{-time.Hour, 7 * time.Minute, 0}[i%3]
				}
			},
			inject: func(w *world) {
				w.pick().kill()
				w.wait(w.between(500*time.Millisecond, 2*time.Second))
			},
		},
		{
			name: "clock-redis", what: "Redis' clock steps forward and back, by up to an hour", part: inRedis, inject: func(w *world) {
				w.stepClock(w.between(-time.Hour, time.Hour))
				w.wait(w.between(time.Second, 3*time.Second))
				w.stepClock(0)
				w.wait(w.between(time.Second, 2*time.Second))
			},
		},
	}
}
