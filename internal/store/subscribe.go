package store

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// silence is how long a subscription may say nothing before it is asked whether it still lives.
const silence = 10 * time.Second

// Subscription is one pub/sub connection. It does not reconnect: its owner does, and so knows that messages may have been missed.
type Subscription struct {
	pubsub  *redis.PubSub
	release func() bool
}

// SubscribeEvents returns once Redis confirmed that it will send the events of a task, or with id "" of the whole queue.
func (q *Queue) SubscribeEvents(ctx context.Context, id string) (*Subscription, error) {
	if id == "" {
		return q.confirm(ctx, "all tasks", q.rdb.PSubscribe(ctx, glob(q.keys.events(""))+"*"))
	}
	return q.confirm(ctx, fmt.Sprintf("task %q", id), q.rdb.Subscribe(ctx, q.keys.events(id)))
}

// SubscribeControl returns once Redis confirmed that it will send what tasks of the queue are told.
func (q *Queue) SubscribeControl(ctx context.Context) (*Subscription, error) {
	return q.confirm(ctx, "control messages", q.rdb.PSubscribe(ctx, glob(q.keys.control(""))+"*"))
}

// glob quotes what a pattern would take as special.
func glob(channel string) string {
	quoted := make([]byte, 0, len(channel))
	for i := range len(channel) {
		switch channel[i] {
		case '*', '?', '[', ']', '\\':
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, channel[i])
	}
	return string(quoted)
}

func (q *Queue) confirm(ctx context.Context, what string, pubsub *redis.PubSub) (*Subscription, error) {
	// Receive does not watch ctx while it blocks; closing the connection ends it.
	s := &Subscription{pubsub: pubsub}
	s.release = context.AfterFunc(ctx, func() { _ = pubsub.Close() })
	if _, err := pubsub.ReceiveTimeout(ctx, silence); err != nil {
		_ = s.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("subscribe to %s in queue %q: %w", what, q.name, explain(err))
	}
	return s, nil
}

// Next returns the next message; idle (with no message) after a silence in which Redis proved to be there.
func (s *Subscription) Next(ctx context.Context) (message *redis.Message, err error) {
	asked := false
	for {
		reply, err := s.pubsub.ReceiveTimeout(ctx, silence)
		switch reply := reply.(type) {
		case *redis.Message:
			return reply, nil
		case *redis.Pong:
			return nil, nil
		}
		if err == nil {
			continue
		}
		if !isTimeout(err) || asked {
			return nil, fmt.Errorf("subscription: %w", err)
		}
		asked = true
		if err := s.Ping(ctx); err != nil {
			return nil, err
		}
	}
}

// Ping makes Next return with no message once all that Redis sent before has been read.
func (s *Subscription) Ping(ctx context.Context) error {
	if err := s.pubsub.Ping(ctx); err != nil {
		return fmt.Errorf("subscription: %w", err)
	}
	return nil
}

func isTimeout(err error) bool {
	timeout, ok := err.(interface{ Timeout() bool })
	return ok && timeout.Timeout()
}

// ControlID cuts the ID out of a control channel's name.
func (q *Queue) ControlID(channel string) string { return channel[len(q.keys.control("")):] }

func (s *Subscription) Close() error {
	s.release()
	return s.pubsub.Close()
}
