package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Blocker waits for work in Redis on a connection of its own: not one of the user's pool, which waiting runners would drain.
// One goroutine calls Wait; any other may call Interrupt.
type Blocker struct {
	client   *redis.Client
	conn     *redis.Conn
	clientID int64
	wait     string
	inbox    string
	room     string
}

// NewBlocker connects. In a Cluster it is bound to the node that has the queue's slot; after a move Wait fails and a new one is due.
func (q *Queue) NewBlocker(ctx context.Context, runner string) (*Blocker, error) {
	options, err := q.nodeOptions(ctx)
	if err != nil {
		return nil, err
	}
	options.PoolSize, options.MinIdleConns, options.MaxActiveConns = 2, 0, 2 // one blocks, one interrupts it
	options.MaxRetries = -1                                                  // a retried BLMOVE would take a second ID
	// Handlers for a server's maintenance pushes belong to the user's client; this one reconnects anyway.
	options.PushNotificationProcessor = nil
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(options)
	b := &Blocker{client: client, conn: client.Conn(), wait: q.keys.wait, inbox: q.keys.inbox(runner), room: q.keys.room}
	if err := b.conn.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to wait for tasks: %w", explain(err)), b.Close())
	}
	// Without an ID (miniredis, an ACL that forbids it) Interrupt cuts the connection instead.
	b.clientID, _ = b.conn.ClientID(ctx).Result()
	return b, nil
}

// CanBlock refuses clients of a kind that a Blocker cannot connect like.
func CanBlock(rdb redis.UniversalClient) error {
	switch rdb.(type) {
	case *redis.Client, *redis.ClusterClient:
		return nil
	}
	return fmt.Errorf("a runner needs connections of its own, and cannot open them like a %T does: pass a *redis.Client or a *redis.ClusterClient", rdb)
}

// ReadsMaster refuses clients that read from replicas. What a read finds decides what is done next: a replica that lags would say that a
// task is gone that runs, and the runner would give it back or cancel it.
func ReadsMaster(rdb redis.UniversalClient) error {
	if cluster, ok := rdb.(*redis.ClusterClient); ok && cluster.Options().ReadOnly {
		return errors.New("this *redis.ClusterClient reads from replicas, which may lag, and decisions need what the master has: " +
			"pass one without ReadOnly, RouteByLatency and RouteRandomly")
	}
	return nil
}

func (q *Queue) nodeOptions(ctx context.Context) (*redis.Options, error) {
	switch client := q.rdb.(type) {
	case *redis.Client:
		options := *client.Options()
		return &options, nil
	case *redis.ClusterClient:
		node, err := client.MasterForKey(ctx, q.keys.wait)
		if err != nil {
			return nil, fmt.Errorf("find the node of queue %q: %w", q.name, explain(err))
		}
		options := *node.Options()
		return &options, nil
	}
	return nil, CanBlock(q.rdb)
}

// Wait blocks until an ID is in the runner's inbox, or for the time given (then it returns false), or until interrupted.
func (b *Blocker) Wait(ctx context.Context, timeout time.Duration) (bool, error) {
	err := b.conn.BLMove(ctx, b.wait, b.inbox, "RIGHT", "LEFT", timeout).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("wait for tasks: %w", explain(err))
	}
	return true, nil
}

// Interrupt asks Redis to end the blocked call: its answer then says for certain whether an ID was moved. It returns false where the
// server cannot; Close then ends the call, and an ID may still arrive in the inbox.
//
// Redis before 8.2 panics on CLIENT UNBLOCK of a call that CLIENT PAUSE or a failover has postponed (redis/redis#14164). So a write goes
// with it, of a key that never exists: then both are postponed together.
func (b *Blocker) Interrupt(ctx context.Context) bool {
	if b.clientID == 0 {
		return false
	}
	_, err := b.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, b.room)
		p.ClientUnblock(ctx, b.clientID)
		return nil
	})
	return err == nil
}

func (b *Blocker) Close() error { return b.client.Close() }
