package redtask

import (
	"context"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// promoter puts scheduled tasks in line when they are due. It sleeps until the next due time that it knows: from each renewal of the
// lease, and from what this runner schedules itself.
type promoter struct {
	engine *engine
	due    chan int64 // Unix ms by Redis' clock
}

func newPromoter(e *engine) *promoter { return &promoter{engine: e, due: make(chan int64, 16)} }

// dueAt tells of a due time; 0 is none. With the buffer full one of those waiting there is soon enough to look again.
func (p *promoter) dueAt(at int64) {
	if at == 0 {
		return
	}
	select {
	case p.due <- at:
	default:
	}
}

// Serve runs until ctx ends.
func (p *promoter) Serve(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	next := int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-p.due:
			if next == 0 || at < next {
				next = at
			}
		case <-timer.C:
			next = p.promote(ctx)
		}
		if next != 0 {
			timer.Reset(ms(max(1, next-p.engine.now())))
		}
	}
}

// promote returns when to look again.
func (p *promoter) promote(ctx context.Context) int64 {
	for {
		done, err := p.engine.queue.Promote(ctx, store.MaxBatch)
		if err != nil {
			if ctx.Err() == nil {
				p.engine.logger.Warn("could not put due tasks in line; it is tried again", "error", err)
			}
			return p.engine.now() + time.Second.Milliseconds()
		}
		p.engine.setClock(done.Now)
		if done.Moved < store.MaxBatch {
			return done.NextDue
		}
	}
}
