package model

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
)

const base = "redtask:{q}:"

// patience bounds each call. On real Redis no moment that decides a call's answer lies within it: see machine.settleClock.
const patience = 10 * time.Second

// server is a Redis that the test has for itself.
type server struct {
	rdb    *redis.Client
	queue  *store.Queue
	pubsub *redis.PubSub
	mini   *miniredis.Miniredis // nil on real Redis
	marks  int                  // published so far
}

func connect(t require.TestingT, addr string, mini *miniredis.Miniredis) *server {
	rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ReadTimeout: patience})
	s := &server{rdb: rdb, queue: store.New(rdb, "redtask").Queue("q"), mini: mini}
	ctx, cancel := s.ctx()
	defer cancel()
	s.pubsub = rdb.PSubscribe(ctx, "*")
	_, err := s.pubsub.Receive(ctx)
	require.NoError(t, err)
	return s
}

func (s *server) close() {
	_ = s.pubsub.Close()
	_ = s.rdb.Close()
}

// ctx is none of the test's: rapid ends that with each check, the connections stay.
func (*server) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// empty forgets the check before.
func (s *server) empty(t require.TestingT) {
	ctx, cancel := s.ctx()
	defer cancel()
	require.NoError(t, s.rdb.FlushAll(ctx).Err())
	if s.mini != nil {
		s.mini.SetTime(time.UnixMilli(1_790_000_000_000))
		s.mini.Seed(1) // what SRANDMEMBER draws: a check that fails must fail again
	}
	s.receive(t)
}

// clock is the server's, Unix ms.
func (s *server) clock(t require.TestingT) int64 {
	ctx, cancel := s.ctx()
	defer cancel()
	now, err := s.rdb.Time(ctx).Result()
	require.NoError(t, err)
	return now.UnixMilli()
}

// pass lets time go by. A real server's clock cannot be set: there every time that is stored moves back instead, and pass returns true.
func (s *server) pass(t require.TestingT, ms int64) (shifted bool) {
	if s.mini != nil {
		s.mini.SetTime(time.UnixMilli(s.clock(t) + ms))
		return false
	}
	ctx, cancel := s.ctx()
	defer cancel()
	before := s.read(t)
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for key := range before {
			kind, _, _ := strings.Cut(key, ":")
			switch kind {
			case "runners", "scheduled", "final":
				for member, score := range before.fields(key) {
					if score != "0" { // a lease that is taken over
						p.ZIncrBy(ctx, base+key, float64(-ms), member)
					}
				}
			case "runner":
				if before.fields(key).has("renewed_at") {
					p.HIncrBy(ctx, base+key, "renewed_at", -ms)
				}
			case "task":
				for _, field := range timeFields {
					if before.fields(key).has(field) {
						p.HIncrBy(ctx, base+key, field, -ms)
					}
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
	return true
}

// read takes a snapshot. A key that the protocol does not name is a failure.
func (s *server) read(t require.TestingT) snapshot {
	ctx, cancel := s.ctx()
	defer cancel()
	keys, err := s.rdb.Keys(ctx, "*").Result()
	require.NoError(t, err)
	values := map[string]redis.Cmder{}
	_, err = s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			name, ok := strings.CutPrefix(key, base)
			require.True(t, ok, "key %q", key)
			values[name] = readKey(ctx, p, name)
			require.NotNil(t, values[name], "key %q", key)
		}
		return nil
	})
	require.NoError(t, err)
	found := snapshot{}
	for name, value := range values {
		found.add(name, value)
	}
	return found
}

// readKey reads a key by what its name says that it holds.
func readKey(ctx context.Context, p redis.Pipeliner, name string) redis.Cmder {
	key := base + name
	kind, rest, found := strings.Cut(name, ":")
	switch {
	case name == "wait", kind == "inbox" && found:
		return p.LRange(ctx, key, 0, -1)
	case name == "scheduled", name == "runners", kind == "final" && (isFinal(rest) || rest == "kept"):
		return p.ZRangeWithScores(ctx, key, 0, -1)
	case name == "counters", found && (kind == "task" || kind == "runner" || kind == "control"):
		return p.HGetAll(ctx, key)
	case kind == "running" && found:
		return p.SMembers(ctx, key)
	case name == "epoch":
		return p.Get(ctx, key)
	case name == "cleaner":
		p.Persist(ctx, key) // the lock ends when the test says so; that it has a TTL, expired.send sees
		return p.Get(ctx, key)
	}
	return nil
}

func (s snapshot) add(name string, value redis.Cmder) {
	switch value := value.(type) {
	case *redis.StringCmd:
		s[name] = value.Val()
	case *redis.MapStringStringCmd:
		s.hash(name, value.Val())
	case *redis.ZSliceCmd:
		scores := map[string]string{}
		for _, z := range value.Val() {
			scores[fmt.Sprint(z.Member)] = strconv.FormatFloat(z.Score, 'f', -1, 64)
		}
		s.hash(name, scores)
	case *redis.StringSliceCmd:
		values := value.Val()
		if strings.HasPrefix(name, "running:") {
			slices.Sort(values)
		}
		s.list(name, values)
	}
}

// messages reads what was published until now.
func (s *server) messages(t require.TestingT) []message {
	var messages []message
	for _, got := range s.receive(t) {
		channel, ok := strings.CutPrefix(got.Channel, base)
		require.True(t, ok, "channel %q", got.Channel)
		text := got.Payload
		if strings.HasPrefix(channel, "events:") {
			e, err := parseEvent(text)
			require.NoError(t, err, text)
			text = plain(e)
		}
		messages = append(messages, message{channel, text})
	}
	return messages
}

// receive reads up to a mark of its own: a check that failed may have left what it did not read.
func (s *server) receive(t require.TestingT) []*redis.Message {
	ctx, cancel := s.ctx()
	defer cancel()
	s.marks++
	mark := strconv.Itoa(s.marks)
	require.NoError(t, s.rdb.Publish(ctx, "mark", mark).Err())
	var messages []*redis.Message
	for {
		got, err := s.pubsub.ReceiveMessage(ctx)
		require.NoError(t, err)
		switch {
		case got.Channel != "mark":
			messages = append(messages, got)
		case got.Payload == mark:
			return messages
		}
	}
}

// latest is the latest time that a snapshot tells of: when the last call was that stored one.
func (s snapshot) latest() int64 {
	var last int64
	for _, id := range s.named("task:") {
		for _, field := range []string{"created_at", "started_at", "ended_at"} {
			last = max(last, s.fields("task:"+id).number(field))
		}
	}
	return last
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
