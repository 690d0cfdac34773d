package redtask

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// follows reports whether a call is a commit that must come after another one that is under way.
func follows(cmd *redis.Cmd) bool {
	args := cmd.Args()
	keys, _ := args[2].(int)
	if len(args) < keys+9 {
		return false
	}
	after, ok := args[3+keys+3].(int64)
	return ok && after != 0
}

// A batch that overtakes the one before it on the way is refused, and sent again after that one: events stay in order, and a batch whose
// answer is lost on top is not applied twice.
func TestBatchThatOvertakes(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var armed, refused atomic.Bool
		held, overtaken := make(chan struct{}), make(chan struct{})
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			switch {
			case follows(cmd):
				err := next()
				values, _ := cmd.Val().([]any)
				if len(values) > 0 && values[0] == "early" && refused.CompareAndSwap(false, true) {
					close(overtaken)
				}
				return err
			case armed.CompareAndSwap(true, false):
				close(held)
				<-overtaken
				if err := next(); err != nil {
					return err
				}
				return loseAnswer(cmd)
			}
			return next()
		})
		const most = 50
		registry := NewRegistry()
		registry.Register("test/talk", Func(func(ctx context.Context, _ any) error {
			c := FromContext(ctx).engine.committer
			for under := 1; under > 0; pause(ctx, time.Millisecond) { // else the next batch follows one already
				c.mu.Lock()
				under = len(c.flights) + len(c.items)
				c.mu.Unlock()
			}
			armed.Store(true)
			for i := range most {
				if err := FromContext(ctx).Emit("n", i); err != nil {
					return err
				}
				if i == 0 { // the batch that has this one is under way when the others come
					<-held
				}
			}
			<-overtaken
			return nil
		}))
		own.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
		client := e.client(t)
		events, err := client.WatchQueue(testContext(t))
		require.NoError(t, err)
		id := start(t, client, "test/talk", nil)
		var got, want []string
		for event := range events {
			got = append(got, fmt.Sprint(event.Seq, " ", event.Name, " ", string(event.Data)))
			if event.final() {
				break
			}
		}
		for i := range most {
			want = append(want, fmt.Sprint(i+2, " n ", i))
		}
		require.Equal(t, want, slices.Clone(got[1:len(got)-1]), "between running and ended")
		require.Equal(t, StateEnded, wait(t, client, id).State)
	})
}

// What is called between two batches, and asks to be called once more, as a local task does while its last end is not sent, leaves a batch
// its turn: without that nothing is sent any more.
func TestCallsTakeTurnsWithBatches(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var waited atomic.Int32
		registry := NewRegistry()
		registry.Register("test/emit", Func(func(ctx context.Context, _ any) error {
			r := FromContext(ctx)
			c := r.engine.committer
			var sent func(context.Context)
			sent = func(context.Context) {
				c.mu.Lock()
				unsent := len(c.items)
				c.mu.Unlock()
				if unsent > 0 && ctx.Err() == nil {
					waited.Add(1)
					c.do(sent)
				}
			}
			emitted := make(chan error, 1)
			c.do(func(context.Context) {
				emitted <- r.Emit("hello", nil)
				c.do(sent)
			})
			return <-emitted
		}))
		e.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
		client := e.client(t)
		require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/emit", nil)).State)
		require.LessOrEqual(t, waited.Load(), int32(1), "the end may come when the event is sent")
	})
}
