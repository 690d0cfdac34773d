package redtask

import (
	"context"
	"strings"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// faultBackoff is the attempt whose backoff, about half a second, a broken key has before it is looked at again.
const faultBackoff = 4

// settle does what the answer to a batch means.
func (c *committer) settle(ctx context.Context, f *flight, result *store.Result) {
	batch, items := f.batch, f.items
	c.engine.setClock(result.Now)
	switch result.Outcome {
	case store.Unregistered:
		for i := range items {
			c.settleItem(&items[i], "lost")
		}
		c.engine.lease.lost()
	case store.Replayed:
		c.settleReplayed(ctx, items, batch)
	case store.Applied:
		code := 0
		for i := range items {
			if items[i].isFenced() {
				c.settleItem(&items[i], result.Codes[code])
				code++
			}
		}
		c.takeClaims(batch, result)
	}
}

// settleReplayed: the batch is applied, but its codes and claims were in the lost reply. Claims are found by comparing; a write, which
// someone may wait for, is simply written again. A batch from before the registration may not be applied at all: its ends are said again,
// and taken if the run still owns its task.
func (c *committer) settleReplayed(ctx context.Context, items []item, batch *store.Batch) {
	c.mu.Lock()
	certain := batch.Number > c.before
	c.mu.Unlock()
	c.mustReconcile()
	c.lookAgain()
	var again []item
	for i := range items {
		switch op := items[i].op; {
		case op == opWrite, op == opProgress, op == opKeep, (op == opLeave || op == opLog) && !certain:
			items[i].sent = true
			again = append(again, items[i])
		case op == opSwap:
			c.settleItem(&items[i], c.askSwapped(ctx, items[i].next))
		default:
			c.settleItem(&items[i], "ok")
		}
	}
	c.mu.Lock()
	c.items = append(again, c.items...)
	c.mu.Unlock()
}

// askSwapped asks whether a run took over: had a pending stop won, it must not begin.
func (c *committer) askSwapped(ctx context.Context, next *Run) string {
	for attempt := 0; ; attempt++ {
		owned, err := c.engine.queue.Owns(ctx, c.engine.runnerID, next.member)
		switch {
		case err == nil && owned:
			return "ok"
		case err == nil || !c.tryAgain(ctx, attempt, err):
			return "lost"
		}
	}
}

func (c *committer) settleItem(i *item, code string) {
	switch i.op {
	case opEmit:
		return
	case opLeave:
		if strings.HasPrefix(code, "away:") { // the slot of its key is moving, say
			again := *i
			time.AfterFunc(backoff(faultBackoff), func() { c.put(again) })
			return
		}
		c.engine.remove(i.run)
		c.logLeave(i, code)
	case opSwap:
		c.engine.remove(i.run)
		if code == "ok" {
			c.engine.add(i.next)
		}
	case opKeep, opWrite, opProgress, opLog:
		if code != "ok" && i.settled == nil {
			i.run.runnerLogger().Warn("could not write the task's record", "reason", strings.TrimPrefix(code, "broken:"))
		}
		if code == "lost" {
			i.run.lose()
			i.run.endLog()
		}
	}
	if i.settled != nil {
		i.settled <- code
	}
}

func (c *committer) logLeave(i *item, code string) {
	switch {
	case code == "lost":
		i.run.runnerLogger().Warn("the end of this run was not written: the task is no longer this runner's", "state", i.leave.State)
	case strings.HasPrefix(code, "broken:"):
		i.run.runnerLogger().Error("could not write the task's record: look at its key with TYPE", "state", i.leave.State, "reason", code[len("broken:"):])
	case i.leave.State == "SCHEDULED":
		c.engine.promoter.dueAt(c.engine.now() + i.leave.Delay)
	}
}

func (c *committer) takeClaims(batch *store.Batch, result *store.Result) {
	for _, fault := range result.Faults {
		c.engine.logger.Error("a key of the queue cannot be used: find it with TYPE, and delete or rename it", "reason", fault)
	}
	for _, drop := range result.Drops {
		c.engine.logger.Warn("dropped an ID from the line", "id", drop.ID, "reason", drop.Reason)
	}
	for i := range result.Claims {
		if !c.engine.launch(&result.Claims[i]) {
			c.giveBack(c.engine.newRun(&result.Claims[i]), c.engine.whyNot())
		}
	}
	if batch.Claim == 0 {
		return
	}
	if result.NextDue != 0 {
		c.engine.promoter.dueAt(result.NextDue)
	}
	c.mu.Lock()
	c.more, c.paused = result.More, result.Paused
	c.hungry = c.hungry || c.more // the next batch comes from this goroutine: nobody is to be woken
	c.mu.Unlock()
	switch {
	case len(result.Faults) > 0: // what is broken stays so for a while
		time.AfterFunc(backoff(faultBackoff), c.lookAgain)
	case !result.More && !result.Paused: // a paused queue is asked again when it is resumed
		c.engine.fetcher.await()
	}
}
