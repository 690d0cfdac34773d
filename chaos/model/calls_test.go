package model

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask/internal/store"
)

// call is one call of the store, with all its arguments: sent again, it is the same call.
type call interface {
	// send makes the call and returns its answer in the form in which the model answers.
	send(ctx context.Context, s *server) (any, error)
	// apply makes of the model what the call makes of Redis.
	apply(m *model) any
}

// outcome is a refusal in a word, as the model says it.
func outcome(err error) (string, error) {
	var refusal *store.StateError
	switch {
	case err == nil:
		return "ok", nil
	case errors.Is(err, store.ErrMissing):
		return "missing", nil
	case errors.Is(err, store.ErrRunning):
		return "running", nil
	case errors.As(err, &refusal) && refusal.Reason == store.ErrExists:
		return "exists:" + refusal.State, nil
	case errors.As(err, &refusal) && refusal.Reason == store.ErrFinal:
		return "final:" + refusal.State, nil
	case errors.As(err, &refusal):
		return "stopping", nil
	}
	return "", err
}

type startCall struct{ tasks []store.NewTask }

func (c startCall) send(ctx context.Context, s *server) (any, error) {
	faults, err := s.queue.Start(ctx, c.tasks)
	results := make([]string, len(faults))
	for i, fault := range faults {
		var unexpected error
		results[i], unexpected = outcome(fault)
		err = errors.Join(err, unexpected)
	}
	return results, err
}

func (c startCall) apply(m *model) any { return m.start(c.tasks) }

// wakeCall starts tasks while a runner waits in Redis for one. That the move may reach Redis after the start makes no difference.
type wakeCall struct {
	startCall
	runner string
}

func (c wakeCall) send(ctx context.Context, s *server) (any, error) {
	moved := make(chan *redis.StringCmd, 1)
	go func() { moved <- s.rdb.BLMove(ctx, base+"wait", base+"inbox:"+c.runner, "RIGHT", "LEFT", patience) }()
	results, err := c.startCall.send(ctx, s)
	id, moveErr := (<-moved).Result()
	return append(results.([]string), id), errors.Join(err, moveErr)
}

func (c wakeCall) apply(m *model) any {
	return append(m.start(c.tasks), m.wake(c.runner))
}

type commitCall struct {
	runner string
	number int64
	claim  int
	items  []item
}

func (c commitCall) send(ctx context.Context, s *server) (any, error) {
	b := &store.Batch{Number: c.number, Claim: c.claim}
	for n := range c.items {
		switch i := &c.items[n]; i.op {
		case "emit":
			b.Emit(i.id, i.text)
		case "write":
			b.Write(i.id, i.member, i.fields...)
		case "leave":
			b.Leave(i.id, i.member, i.leave)
		case "swap":
			b.Swap(i.id, i.member, i.epoch, i.data, i.leave)
		case "keep":
			b.KeepOld(i.id, i.member, i.tried, i.data)
		}
	}
	result, err := s.queue.Commit(ctx, c.runner, b)
	if err != nil {
		return nil, err
	}
	for i := range result.Drops {
		result.Drops[i].Reason = "" // for people
	}
	return result, nil
}

func (c commitCall) apply(m *model) any { return m.commit(c.runner, c.number, c.claim, c.items) }

// taskCall is what a client asks of one task: stop, reload, restart or remove.
type taskCall struct {
	what, id, nonce string
	data            *string
}

func (c taskCall) send(ctx context.Context, s *server) (any, error) {
	switch c.what {
	case "stop":
		stopped, err := s.queue.Stop(ctx, c.id)
		if err != nil {
			return outcome(err)
		}
		return map[bool]string{true: "stopped", false: "told"}[stopped], nil
	case "reload":
		var data []byte
		if c.data != nil {
			data = []byte(*c.data)
		}
		return outcome(s.queue.Reload(ctx, c.id, c.nonce, data))
	case "restart":
		return outcome(s.queue.Restart(ctx, c.id, c.nonce))
	default:
		return outcome(s.queue.Remove(ctx, c.id))
	}
}

func (c taskCall) apply(m *model) any {
	switch c.what {
	case "stop":
		return m.stop(c.id)
	case "reload":
		return m.reload(c.id, c.nonce, c.data)
	case "restart":
		return m.restart(c.id, c.nonce)
	default:
		return m.remove(c.id)
	}
}

// runnerCall is what a runner says of itself: register, renew, unregister, adopt, reserve.
type runnerCall struct {
	what, runner, id string
	open             bool
	made             int64 // number of the last batch, for a registration
}

func (c runnerCall) send(ctx context.Context, s *server) (any, error) {
	switch c.what {
	case "register":
		ok, _, err := s.queue.Register(ctx, &store.RunnerInfo{ID: c.runner, Lease: lease, Names: []string{taskName}, Batch: c.made})
		return ok, err
	case "renew":
		return s.queue.Renew(ctx, c.runner, lease)
	case "unregister":
		return s.queue.Unregister(ctx, c.runner, c.open)
	case "adopt":
		return s.queue.Adopt(ctx, c.runner, c.id, taskName, "null")
	default:
		return s.queue.ReserveEpoch(ctx)
	}
}

func (c runnerCall) apply(m *model) any {
	switch c.what {
	case "register":
		return m.register(c.runner, c.made)
	case "renew":
		return m.renew(c.runner)
	case "unregister":
		return m.unregister(c.runner, c.open)
	case "adopt":
		return m.adopt(c.runner, c.id)
	default:
		m.draw()
		return m.epoch
	}
}

type promotion struct {
	Moved int
	Next  int64
}

type promoteCall struct{ limit int }

func (c promoteCall) send(ctx context.Context, s *server) (any, error) {
	done, err := s.queue.Promote(ctx, c.limit)
	moved, next := done.Moved, done.NextDue
	return promotion{moved, next}, err
}

func (c promoteCall) apply(m *model) any {
	moved, next := m.promote(c.limit)
	return promotion{moved, next}
}

// moments are when the call begins to find something due.
func (promoteCall) moments(m *model) []int64 {
	var moments []int64
	for _, due := range m.scheduled {
		moments = append(moments, due)
	}
	return moments
}

type takeOverCall struct {
	dead   string
	bounds store.Recovery
}

func (c *takeOverCall) send(ctx context.Context, s *server) (any, error) {
	return s.queue.TakeOver(ctx, c.dead, &c.bounds)
}

func (c *takeOverCall) apply(m *model) any { return m.takeOver(c.dead, &c.bounds) }

func (c *takeOverCall) moments(m *model) []int64 {
	return []int64{m.leases[c.dead]}
}

func (c *takeOverCall) shift(ms int64) { c.bounds.LeaseEnd -= ms }

type expiredCall struct {
	runner string
	limit  int
	keep   []store.Retention
}

func (c expiredCall) send(ctx context.Context, s *server) (any, error) {
	due, err := s.queue.Expired(ctx, c.runner, lock, c.limit, c.keep)
	if err != nil {
		return nil, err
	}
	ttl, err := s.rdb.PTTL(ctx, base+"cleaner").Result()
	if holder := s.rdb.Get(ctx, base+"cleaner").Val(); holder == c.runner && (ttl <= 0 || ttl > lock) {
		return nil, fmt.Errorf("the lock of %s ends in %s", holder, ttl)
	}
	for _, finals := range due {
		for i := range finals { // servers write scores in several ways
			end, err := strconv.ParseFloat(finals[i].EndedAt, 64)
			if err != nil {
				return nil, err
			}
			finals[i].EndedAt = strconv.FormatFloat(end, 'f', -1, 64)
		}
	}
	return due, err
}

func (c expiredCall) apply(m *model) any { return m.expired(c.runner, c.limit, c.keep) }

func (c expiredCall) moments(m *model) []int64 {
	var moments []int64
	for _, r := range c.keep {
		for _, end := range m.final[r.State] {
			moments = append(moments, end+r.Age.Milliseconds())
		}
	}
	return moments
}

type sweepCall struct {
	state string
	tasks []store.Final
}

func (c *sweepCall) send(ctx context.Context, s *server) (any, error) {
	return s.queue.Sweep(ctx, c.state, c.tasks)
}

func (c *sweepCall) apply(m *model) any { return m.sweep(c.state, c.tasks) }

func (c *sweepCall) shift(ms int64) {
	for i := range c.tasks {
		end, _ := strconv.ParseInt(c.tasks[i].EndedAt, 10, 64)
		c.tasks[i].EndedAt = strconv.FormatInt(end-ms, 10)
	}
}

// handCall is what somebody does with redis-cli, or what the test does to Redis: unlock ends the cleaning lock.
type handCall struct{ what, id, data string }

func (c handCall) send(ctx context.Context, s *server) (any, error) {
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		key := base + "task:" + c.id
		switch c.what {
		case "again":
			p.HSet(ctx, key, "state", "WAIT")
		case "create":
			p.HSet(ctx, key, "task", taskName, "data", c.data)
		case "data", "nameless":
			p.HSet(ctx, key, "data", c.data)
		case "keep":
			p.HSet(ctx, key, "keep", "1")
		case "delete":
			p.Del(ctx, key)
		case "unlock":
			p.Del(ctx, base+"cleaner")
		}
		if c.what == "push" || c.what == "again" || c.what == "create" || c.what == "nameless" {
			p.LPush(ctx, base+"wait", c.id)
		}
		return nil
	})
	return nil, err
}

func (c handCall) apply(m *model) any {
	if c.what == "unlock" {
		m.cleaner = ""
	} else {
		m.hand(c.what, c.id, c.data)
	}
	return nil
}
