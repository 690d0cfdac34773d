package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
)

// script is a task whose methods a test sets; nil ones do nothing.
type script struct {
	init    func(ctx context.Context, data json.RawMessage) error
	start   func(ctx context.Context) error
	stop    func(ctx context.Context) error
	provide func(ctx context.Context) (context.Context, func(), error)
}

// task makes instances of which each has only the optional methods that are set.
func (s *script) task() Task {
	base := scripted{s}
	switch {
	case s.stop != nil && s.provide != nil:
		return struct {
			scripted
			stopping
			providing
		}{base, stopping{s}, providing{s}}
	case s.stop != nil:
		return struct {
			scripted
			stopping
		}{base, stopping{s}}
	case s.provide != nil:
		return struct {
			scripted
			providing
		}{base, providing{s}}
	}
	return base
}

type scripted struct{ script *script }

func (s scripted) Init(ctx context.Context, data json.RawMessage) error {
	if s.script.init == nil {
		return nil
	}
	return s.script.init(ctx, data)
}

func (s scripted) Start(ctx context.Context) error {
	if s.script.start == nil {
		return nil
	}
	return s.script.start(ctx)
}

type stopping struct{ script *script }

func (s stopping) Stop(ctx context.Context) error { return s.script.stop(ctx) }

type providing struct{ script *script }

func (p providing) ProvideContext(ctx context.Context) (context.Context, func(), error) {
	return p.script.provide(ctx)
}

// blocker is a task that runs until its ctx ends, and says when it runs and why it ended.
type blocker struct {
	running chan *Run
	causes  chan error
	result  atomic.Value // error to return instead of ctx.Err(), wrapped in a struct
}

type errorBox struct{ err error }

func newBlocker() *blocker {
	return &blocker{running: make(chan *Run, 1000), causes: make(chan error, 1000)}
}

func (b *blocker) factory() Task {
	return (&script{start: func(ctx context.Context) error {
		b.running <- FromContext(ctx)
		<-ctx.Done()
		b.causes <- context.Cause(ctx)
		if box, ok := b.result.Load().(errorBox); ok {
			return box.err
		}
		return ctx.Err()
	}}).task()
}

var errSurprise = errors.New("surprise")
