package redtask

import (
	"context"
	"strings"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// listen hears what tasks of the queue are told on their control channels, until ctx ends. After a reconnect it reads the recorded
// intents: what was published meanwhile did not arrive.
func (e *engine) listen(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		subscription, err := e.queue.SubscribeControl(ctx)
		if err == nil {
			attempt = 0
			e.readIntents(ctx)
			call(e.options.hooks.listening, e.queue.Name())
			err = e.hear(ctx, subscription)
			_ = subscription.Close() // what failed was said already
		}
		if ctx.Err() != nil {
			return
		}
		if attempt == 0 {
			e.logger.Warn("cannot subscribe to control messages; it is tried again, and what a client recorded meanwhile is not missed", "error", err)
		}
		pause(ctx, backoff(attempt))
	}
}

func (e *engine) hear(ctx context.Context, subscription *store.Subscription) error {
	for {
		message, err := subscription.Next(ctx)
		if err != nil {
			return err
		}
		if message != nil {
			e.control(e.queue.ControlID(message.Channel), message.Payload)
		}
	}
}

func (e *engine) readIntents(ctx context.Context) {
	asked := time.Now()
	intents, err := e.queue.Intents(ctx, e.runnerID)
	if err != nil {
		if ctx.Err() == nil {
			e.logger.Warn("could not read what tasks are told; it is tried again at the next renewal", "error", err)
		}
		return
	}
	for id, word := range intents {
		// What was read may have been for a run that ended meanwhile; a run that came after is not meant.
		if r := e.find(id); r != nil && r.born.Before(asked) {
			e.obey(r, word, true)
		}
	}
}

// control does what a task is told on its channel, if it runs here. The channel without an ID is for the queue.
func (e *engine) control(id, word string) {
	if id == "" {
		e.controlQueue(word)
		return
	}
	if r := e.find(id); r != nil {
		e.obey(r, word, false)
	}
}

// controlQueue: what is missed here a renewal of the lease tells, and what nobody knows is for other versions.
func (e *engine) controlQueue(word string) {
	kind, at, _ := strings.Cut(word, " ")
	switch kind {
	case store.Resume:
		e.committer.lookAgain()
	case store.Due:
		e.promoter.dueAt(max(1, parseInt(at)))
		select {
		case e.wakeCron <- struct{}{}:
		default:
		}
	}
}

// obey does what a run is told. Anyone may publish anything: an unknown word is answered, not obeyed. A recorded reload that is under
// way already is not done once more.
func (e *engine) obey(r *Run, word string, recorded bool) {
	switch word {
	case store.Stop:
		r.tell(ErrStopped)
	case store.Restart:
		r.tell(ErrRestarted)
	case store.Reload:
		r.reload(!recorded)
	default:
		word = truncate(word, 80)
		r.Logger().Warn("unknown word on the task's control channel; known are stop, reload, restart", "word", word)
		_ = r.publish(EventControlFailed, errorData("unknown word "+quote(word)+": use stop, reload or restart")) // too late is no fault
	}
}
