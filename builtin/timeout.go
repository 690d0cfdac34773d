package builtin

import (
	"context"
	"fmt"
	"time"

	"github.com/redtask/redtask"
)

// Timeout makes middleware that bounds each run of a task, as [redtask.TaskOptions.Timeout] does for one name: Init, Start and the middleware
// further inside. A task that takes longer is told to stop, a [redtask.Stopper] by Stop first, with cause [redtask.ErrTimedOut], and ends
// in EXCEPTION. The ctx further inside has the deadline, for those who ask. Of several timeouts the shortest counts. It panics, like
// [redtask.Registry.Register], if d is less than 1 ms.
func Timeout(d time.Duration) redtask.Middleware {
	if d < time.Millisecond {
		panic(fmt.Errorf("%w: builtin.Timeout(%s): use at least 1ms; is its unit missing? Leave it out for none", redtask.ErrInvalid, d))
	}
	return func(next redtask.Handler) redtask.Handler {
		return func(ctx context.Context, task redtask.Task) error {
			ends := time.Now().Add(d)
			stop := redtask.FromContext(ctx).TimeoutAfter(d)
			defer stop()
			return next(endingContext{ctx, ends}, task)
		}
	}
}

// endingContext tells when the task will be told to stop. It does not end by itself: a Stopper is told first.
type endingContext struct {
	context.Context
	ends time.Time
}

func (c endingContext) Deadline() (time.Time, bool) {
	if earlier, ok := c.Context.Deadline(); ok && earlier.Before(c.ends) {
		return earlier, true
	}
	return c.ends, true
}
