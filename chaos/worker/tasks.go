package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/chaos/ledger"
)

// maxData lets a task return 10 MiB, and refuses one that returns twice as much.
const maxData = 12 << 20

func register(registry *redtask.Registry, version string) {
	tasks := map[string]redtask.Factory{
		"chaos/job":     func() redtask.Task { return &job{} },
		"chaos/failing": func() redtask.Task { return &job{} }, // RetryMany knows it by its name
		"chaos/long":    func() redtask.Task { return &long{} },
		"chaos/stopper": func() redtask.Task { return &stopper{stopped: make(chan struct{})} },
		"chaos/deaf":    func() redtask.Task { return &deaf{} },
		"chaos/panic":   func() redtask.Task { return &panics{} },
		"chaos/exit":    func() redtask.Task { return &exits{} },
		"chaos/flood":   func() redtask.Task { return &flood{} },
		"chaos/big":     func() redtask.Task { return &big{} },
	}
	if version == "b" {
		tasks["chaos/new"] = func() redtask.Task { return &job{} }
	}
	registry.RegisterWith("chaos/keyed", func() redtask.Task { return &job{} }, redtask.TaskOptions{
		StopTimeout: 500 * time.Millisecond, Limits: redtask.Limits{Concurrency: 20, KeyConcurrency: 1},
	})
	for name, factory := range tasks {
		registry.RegisterWith(name, factory, redtask.TaskOptions{StopTimeout: 500 * time.Millisecond})
	}
}

// common is what the data of all tasks may say. Newer producers send fields that are not here.
type common struct {
	MS     int    `json:"ms"`     // how long it works
	Emits  int    `json:"emits"`  // events meanwhile
	Fail   bool   `json:"fail"`   // end in ERROR
	Wrong  bool   `json:"wrong"`  // end in EXCEPTION
	Until  int    `json:"until"`  // ... until this attempt
	Where  string `json:"where"`  // to panic
	Times  int64  `json:"times"`  // to end the process
	Bytes  int    `json:"bytes"`  // of output
	Reload int64  `json:"reload"` // number of the reload that this data came with
}

// output says which run wrote it.
type output struct {
	Epoch int64  `json:"epoch"`
	Fill  string `json:"fill,omitempty"`
}

type base struct{ data common }

func (b *base) Init(_ context.Context, data json.RawMessage) error {
	return json.Unmarshal(data, &b.data)
}

// write enters a line about a run in the ledger.
func write(run *redtask.Run, l ledger.Line) {
	l.Task, l.ID, l.Epoch, l.Attempt = run.Task(), run.ID(), run.Epoch(), run.Attempt()
	book.Add(l)
}

// work enters begin and end of a run around its work, also if it panics.
func (b *base) work(ctx context.Context, do func(context.Context, *redtask.Run) error) (err error) {
	run := redtask.FromContext(ctx)
	write(run, ledger.Line{Kind: ledger.Begin, N: b.data.Reload})
	returned := false
	defer func() {
		cause := ledger.Done
		switch {
		case !returned:
			cause = "panic"
		case ctx.Err() != nil && err != nil:
			cause = context.Cause(ctx).Error()
		}
		write(run, ledger.Line{Kind: ledger.End, Cause: cause})
	}()
	err = do(ctx, run)
	returned = true
	return err
}

// sleep works for a while.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (b *base) duration() time.Duration { return time.Duration(b.data.MS) * time.Millisecond }

// checkpoint writes n and enters when that was sent, when answered, and what the answer was.
func checkpoint(ctx context.Context, run *redtask.Run, n int64) error {
	line := ledger.Line{Kind: ledger.Checkpoint, At: ledger.Now(), N: n}
	err := run.Checkpoint(ctx, n)
	line.Answered = ledger.Now()
	if err != nil {
		line.Error = err.Error()
	}
	write(run, line)
	return err
}

// load finds how far earlier runs got.
func load(ctx context.Context, run *redtask.Run) (int64, error) {
	for {
		var n int64
		_, err := run.LoadCheckpoint(ctx, &n)
		if err == nil {
			write(run, ledger.Line{Kind: ledger.Loaded, N: n})
			return n, nil
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			return 0, ctx.Err()
		}
	}
}

// job is the usual short task.
type job struct{ base }

func (t *job) Start(ctx context.Context) error {
	return t.work(ctx, func(ctx context.Context, run *redtask.Run) error {
		steps := max(1, t.data.Emits)
		for i := range steps {
			if err := sleep(ctx, t.duration()/time.Duration(steps)); err != nil {
				return err
			}
			if err := run.Emit("step", i); err != nil {
				return err
			}
		}
		if err := run.SetOutput(output{Epoch: run.Epoch()}); err != nil {
			return err
		}
		switch {
		case t.data.Fail:
			return redtask.Failf("as told")
		case t.data.Wrong, run.Attempt() < t.data.Until:
			return errors.New("as told")
		}
		return nil
	})
}

// long works until it is told to stop, and goes on where its last run was.
type long struct{ base }

func (t *long) Start(ctx context.Context) error { return t.work(ctx, count) }

func count(ctx context.Context, run *redtask.Run) error {
	n, err := load(ctx, run)
	for err == nil {
		n++
		if err = checkpoint(ctx, run, n); err == nil {
			err = run.Progress(n)
		}
		if err == nil {
			err = sleep(ctx, 100*time.Millisecond)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, redtask.ErrLeaseLost) { // redis knew before this runner did; it will hear soon
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// stopper is a long task with Stop.
type stopper struct {
	base
	stopped chan struct{}
}

func (t *stopper) Stop(context.Context) error {
	close(t.stopped)
	return nil
}

func (t *stopper) Start(ctx context.Context) error {
	return t.work(ctx, func(ctx context.Context, run *redtask.Run) error {
		working, end := context.WithCancel(ctx)
		defer end()
		go func() {
			select {
			case <-t.stopped:
				end()
			case <-working.Done():
			}
		}()
		return count(working, run)
	})
}

// deaf ignores its ctx, and goes on writing.
type deaf struct{ base }

func (t *deaf) Start(ctx context.Context) error {
	return t.work(ctx, func(ctx context.Context, run *redtask.Run) error {
		deafCtx := context.WithoutCancel(ctx)
		n := int64(0)
		for end := time.Now().Add(t.duration()); time.Now().Before(end); n++ {
			bounded, cancel := context.WithTimeout(deafCtx, 200*time.Millisecond)
			_ = checkpoint(bounded, run, n)
			cancel()
			time.Sleep(50 * time.Millisecond)
		}
		return run.SetOutput(output{Epoch: run.Epoch()})
	})
}

// panics does so where it is told to.
type panics struct{ base }

func (t *panics) at(where string) {
	if t.data.Where == where {
		panic("as told, in " + where)
	}
}

func (t *panics) ProvideContext(ctx context.Context) (context.Context, func(), error) {
	// Its data comes only with Init: what panics here is told by the ID.
	id := redtask.FromContext(ctx).ID()
	if len(id) > 8 && id[:8] == "context-" {
		panic("as told, in context")
	}
	return ctx, func() { t.at("release") }, nil
}

func (t *panics) Init(ctx context.Context, data json.RawMessage) error {
	if err := t.base.Init(ctx, data); err != nil {
		return err
	}
	t.at("init")
	return nil
}

func (t *panics) Start(ctx context.Context) error {
	return t.work(ctx, func(ctx context.Context, _ *redtask.Run) error {
		t.at("start")
		if t.data.Where == "stop" {
			<-ctx.Done()
			return ctx.Err()
		}
		return sleep(ctx, t.duration())
	})
}

func (t *panics) Stop(context.Context) error {
	t.at("stop")
	return nil
}

// exits ends its process so many times.
type exits struct{ base }

func (t *exits) Start(ctx context.Context) error {
	return t.work(ctx, func(ctx context.Context, run *redtask.Run) error {
		n, err := load(ctx, run)
		if err != nil {
			return err
		}
		if n < t.data.Times {
			if err := checkpoint(ctx, run, n+1); err != nil {
				return ctx.Err()
			}
			os.Exit(exitTask)
		}
		return run.SetOutput(output{Epoch: run.Epoch()})
	})
}

// flood emits 10,000 events a second.
type flood struct{ base }

func (t *flood) Start(ctx context.Context) error {
	return t.work(ctx, func(ctx context.Context, run *redtask.Run) error {
		for i := range t.data.MS {
			for j := range 10 {
				if err := run.Emit("drop", i*10+j); err != nil {
					return err
				}
			}
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
		}
		return run.SetOutput(output{Epoch: run.Epoch()})
	})
}

// big returns a lot.
type big struct{ base }

func (t *big) Start(ctx context.Context) error {
	return t.work(ctx, func(_ context.Context, run *redtask.Run) error {
		if err := run.SetOutput(output{Epoch: run.Epoch(), Fill: string(bytes.Repeat([]byte("x"), t.data.Bytes))}); err != nil {
			return fmt.Errorf("more than is allowed: %w", err)
		}
		return nil
	})
}
