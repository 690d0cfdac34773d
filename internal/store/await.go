package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// maxSubscribe is how many channels one command names: the answers to more could fill a connection before anyone reads them.
const maxSubscribe = 256

// SubscribeMany is SubscribeEvents for many tasks on one connection. take gets the messages that come before Redis has confirmed all.
func (q *Queue) SubscribeMany(ctx context.Context, ids []string, take func(*redis.Message)) (*Subscription, error) {
	channels := make([]string, len(ids))
	for i, id := range ids {
		channels[i] = q.keys.events(id)
	}
	what := fmt.Sprintf("%d tasks", len(ids))
	s, err := q.confirm(ctx, what, q.rdb.Subscribe(ctx, channels[0]))
	if err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(channels[1:], maxSubscribe) {
		if err := s.add(ctx, chunk, take); err != nil {
			_ = s.Close()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("subscribe to %s in queue %q: %w", what, q.name, explain(err))
		}
	}
	return s, nil
}

// add returns once the channels are confirmed: Redis answers the ping after that.
func (s *Subscription) add(ctx context.Context, channels []string, take func(*redis.Message)) error {
	if err := s.pubsub.Subscribe(ctx, channels...); err != nil {
		return err
	}
	if err := s.Ping(ctx); err != nil {
		return err
	}
	for {
		message, err := s.Next(ctx)
		if err != nil || message == nil {
			return err
		}
		take(message)
	}
}

// EventsID cuts the ID out of an events channel's name.
func (q *Queue) EventsID(channel string) string { return channel[len(q.keys.events("")):] }

// States reads the states of several tasks in one round trip; that of a missing or broken one is "".
func (q *Queue) States(ctx context.Context, ids []string) ([]string, error) {
	found := make([]*redis.SliceCmd, len(ids))
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			found[i] = p.HMGet(ctx, q.keys.task(id), "state", "task")
		}
		return nil
	})
	if err != nil && !wrongType(err) {
		return nil, fmt.Errorf("read states: %w", explain(err)) // also where no command has an error of its own
	}
	states := make([]string, len(ids))
	for i, cmd := range found {
		switch err := cmd.Err(); {
		case err == nil:
			states[i] = stateOf(cmd.Val())
		case !wrongType(err):
			return nil, fmt.Errorf("read states: %w", explain(err))
		}
	}
	return states, nil
}

// stateOf reads `state` and `task` of a hash: without a state the task is in line.
func stateOf(fields []any) string {
	if state := text(fields[0]); state != "" || text(fields[1]) == "" {
		return state
	}
	return "WAIT"
}
