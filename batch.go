package redtask

import "github.com/redtask/redtask/internal/store"

const (
	maxBatchEmits = 256
	maxBatchBytes = 1 << 20
)

type op uint8

const (
	opEmit op = iota
	opWrite
	opProgress // the run's latest report, whatever it is when the batch is made
	opLog      // lines of the run's log, those that are there when the batch is made
	opLeave
	opSwap
	opKeep
)

// item is one thing that a run has to say to Redis.
type item struct {
	op      op
	run     *Run
	text    string // event; data tried
	fields  []string
	leave   *store.Leave // for a swap: if a pending stop wins
	next    *Run
	settled chan<- string // gets the code; nil if nobody waits
	sent    bool          // before, in a batch whose codes are lost
}

// isFenced reports whether the item, once collected, has a code in the answer to its batch.
func (i *item) isFenced() bool { return i.op != opEmit && (i.op != opLog || i.fields != nil) }

// collect takes a batch from the front of what is queued; nil if there is nothing to say and nothing to claim, or it must wait. mu is
// held.
func (c *committer) collect() *flight {
	if !c.mayDepart() {
		return nil
	}
	batch := &store.Batch{Number: c.number + 1}
	n, size := 0, 0
	var emits eventCount
	var log linesTaken
	for n < len(c.items) && !log.full() && batch.Fenced() < store.MaxBatch && emits.events < maxBatchEmits && size < maxBatchBytes {
		i := &c.items[n]
		if i.op == opProgress && i.fields == nil { // else it is said again, after a lost answer
			i.fields, i.run.report = []string{"progress", i.run.report}, ""
		}
		if i.op == opLog && i.fields == nil { // as above
			log.take(i)
		}
		size += i.size()
		if i.op != opEmit || !i.run.lost.Load() { // else the task is another run's, and so are its events
			i.addTo(batch)
		}
		if i.op == opEmit {
			emits.add(len(i.text))
		}
		n++
	}
	items := c.items[:n:n]
	if n == len(c.items) {
		c.items = nil
	} else {
		c.items = c.items[n:]
	}
	c.items = log.putBack(c.items)
	c.makeRoom(emits)
	if c.hungry && !c.reconcile && c.engine.mayClaim() {
		batch.Claim = int(max(0, min(c.engine.free.Load()-c.claiming, store.MaxBatch)))
	}
	if batch.Claim > 0 {
		c.engine.fetcher.busy()
		c.hungry = c.more // before the call: whoever says meanwhile that IDs are in line means the next one
	}
	if batch.Empty() && batch.Claim == 0 {
		return nil
	}
	return c.takeOff(batch, items)
}

func (c *committer) makeRoom(sent eventCount) {
	if sent.events == 0 {
		return
	}
	c.unsent.events -= sent.events
	c.unsent.bytes -= sent.bytes
	close(c.room)
	c.room = make(chan struct{})
}

func (i *item) size() int {
	n := len(i.text)
	for _, field := range i.fields {
		n += len(field)
	}
	if i.leave != nil {
		n += len(i.leave.Event)
		for _, field := range i.leave.Fields {
			n += len(field)
		}
	}
	return n
}

func (i *item) addTo(b *store.Batch) {
	r := i.run
	switch i.op {
	case opEmit:
		b.Emit(r.id, i.text)
	case opWrite, opProgress:
		b.Write(r.id, r.member, i.fields...)
	case opLog:
		if i.fields != nil {
			b.Log(r.id, r.member, i.fields...)
		}
	case opLeave:
		b.Leave(r.id, r.member, i.leave)
	case opSwap:
		b.Swap(r.id, r.member, i.next.epoch, i.text, i.leave)
	case opKeep:
		b.KeepOld(r.id, r.member, i.text, string(r.data))
	}
}
