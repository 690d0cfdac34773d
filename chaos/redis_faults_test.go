package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask/internal/redistest"
)

// eachServer calls do for each server that has keys: the one, the present master, or all masters.
func (w *world) eachServer(ctx context.Context, do func(context.Context, *redis.Client) error) error {
	switch c := w.direct.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, do)
	case *redis.Client:
		return do(ctx, c)
	}
	return fmt.Errorf("a client of type %T", w.direct)
}

// each insists on a call to each server.
func (w *world) each(what string, do func(context.Context, *redis.Client) error) {
	w.insist(what, func(ctx context.Context) error { return w.eachServer(ctx, do) })
}

// config sets an option of all servers.
func (w *world) config(option, value string) {
	w.each("CONFIG SET "+option, func(ctx context.Context, c *redis.Client) error { return c.ConfigSet(ctx, option, value).Err() })
}

func redisFaults() []fault {
	return []fault{
		{name: "redis-kill", what: "SIGKILL of Redis, restart from its AOF (appendfsync always)", part: inRedis, breaksRedis: true, inject: func(w *world) {
			w.servers[0].Kill()
			w.wait(w.between(0, 1500*time.Millisecond))
			w.servers[0].Restart(w.t)
			w.wait(w.between(500*time.Millisecond, 2*time.Second))
		}},
		{name: "redis-shutdown", what: "SHUTDOWN of Redis and restart", part: inRedis, breaksRedis: true, inject: func(w *world) {
			_ = w.direct.Shutdown(context.Background()).Err()
			w.wait(w.between(0, 1500*time.Millisecond))
			w.servers[0].Restart(w.t)
			w.wait(w.between(500*time.Millisecond, 2*time.Second))
		}},
		{name: "redis-long", what: "Redis away for longer than the lease", part: inRedis, breaksRedis: true, slow: true, inject: func(w *world) {
			w.servers[0].Kill()
			w.wait(w.between(lease, lease+2*time.Second))
			w.servers[0].Restart(w.t)
			w.wait(w.between(2*time.Second, 4*time.Second))
		}},
		{name: "redis-freeze", what: "SIGSTOP of Redis, then SIGCONT", part: inRedis, inject: func(w *world) {
			w.servers[0].Freeze(w.t)
			w.wait(w.between(100*time.Millisecond, 4*time.Second))
			w.servers[0].Thaw(w.t)
			w.wait(w.between(500*time.Millisecond, 2*time.Second))
		}},
		{name: "client-kill", what: "CLIENT KILL of every connection", part: inRedis, breaksRedis: true, inject: func(w *world) {
			for _, kind := range []string{"normal", "pubsub"} {
				w.each("CLIENT KILL", func(ctx context.Context, c *redis.Client) error {
					return c.ClientKillByFilter(ctx, "TYPE", kind, "SKIPME", "yes").Err()
				})
			}
			w.wait(w.between(100*time.Millisecond, 800*time.Millisecond))
		}},
		{name: "client-pause", what: "CLIENT PAUSE, of all or of writes", part: inRedis, inject: func(w *world) {
			pause := w.between(100*time.Millisecond, lease+time.Second)
			mode := []string{"ALL", "WRITE"}[w.intN(2)]
			w.each("CLIENT PAUSE", func(ctx context.Context, c *redis.Client) error {
				return c.Do(ctx, "CLIENT", "PAUSE", pause.Milliseconds(), mode).Err()
			})
			w.wait(pause + w.between(500*time.Millisecond, time.Second))
		}},
		{name: "full", what: "maxmemory reached with noeviction (OOM errors)", part: inRedis, inject: func(w *world) {
			w.config("maxmemory", "1mb")
			w.wait(w.between(500*time.Millisecond, lease+2*time.Second))
			w.config("maxmemory", "0")
			w.wait(w.between(500*time.Millisecond, time.Second))
		}},
		{name: "readonly", what: "Redis is a read-only replica for a while (READONLY)", part: inRedis, inject: readOnly},
		{name: "loading", what: "Redis answers LOADING after a restart", part: inRedis, breaksRedis: true, inject: slowLoading},
		{name: "no-script", what: "SCRIPT FLUSH, again and again (NOSCRIPT)", part: inRedis, inject: func(w *world) {
			for range 20 {
				w.each("SCRIPT FLUSH", func(ctx context.Context, c *redis.Client) error { return c.ScriptFlush(ctx).Err() })
				w.wait(w.between(0, 50*time.Millisecond))
			}
			w.each("scripts sent anew", func(ctx context.Context, c *redis.Client) error {
				stats, err := c.Info(ctx, "commandstats").Result()
				if err == nil && !strings.Contains(stats, "cmdstat_eval:") {
					err = errors.New("none was")
				}
				return err
			})
		}},
		{name: "wrong-type", what: "keys of the wrong type and junk among the tasks in line", part: inRedis, inject: wrongType},
		{
			name: "power", what: "power failure with appendfsync everysec: the last second of the AOF is gone", part: inRedis, kind: everysec,
			breaksRedis: true, loses: true, slow: true, inject: powerFailure,
		},
	}
}

// slowLoading restarts Redis such that it takes some time to load its data, and refuses calls meanwhile. It looks at its connections
// while it loads a snapshot, so it makes one before, of keys enough.
func slowLoading(w *world) {
	const fillers = 3000
	w.insist("fill redis", func(ctx context.Context) error {
		pipe := w.direct.Pipeline()
		for i := range fillers {
			pipe.Set(ctx, fmt.Sprint("filler:", i), strings.Repeat("x", 500), time.Minute)
		}
		_, err := pipe.Exec(ctx)
		return err
	})
	w.insist("BGREWRITEAOF", func(ctx context.Context) error { return w.direct.BgRewriteAOF(ctx).Err() })
	w.insist("end of the rewrite", func(ctx context.Context) error {
		info, err := w.direct.Info(ctx, "persistence").Result()
		if err == nil && (!strings.Contains(info, "aof_rewrite_in_progress:0") || !strings.Contains(info, "aof_rewrite_scheduled:0")) {
			err = errors.New("it is under way")
		}
		return err
	})
	w.servers[0].Kill()
	w.servers[0].RestartWith(w.t, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
	info, err := w.direct.Info(context.Background(), "persistence").Result()
	if err != nil || !strings.Contains(info, "loading:1") {
		w.problem("redis is not loading: %v", err)
	}
	w.wait(w.between(500*time.Millisecond, 2*time.Second))
	w.config("key-load-delay", "0")
	w.insist("redis has loaded", func(ctx context.Context) error {
		keys := make([]string, fillers)
		for i := range keys {
			keys[i] = fmt.Sprint("filler:", i)
		}
		return w.direct.Unlink(ctx, keys...).Err()
	})
	w.wait(w.between(500*time.Millisecond, 2*time.Second))
}

// readOnly makes Redis what a master is after a failover that it did not see: a replica that refuses writes.
func readOnly(w *world) {
	host, port, _ := net.SplitHostPort(freeAddr(w.t))
	w.each("REPLICAOF", func(ctx context.Context, c *redis.Client) error { return c.ReplicaOf(ctx, host, port).Err() })
	w.wait(w.between(300*time.Millisecond, lease+time.Second))
	w.each("REPLICAOF NO ONE", func(ctx context.Context, c *redis.Client) error { return c.ReplicaOf(ctx, "NO", "ONE").Err() })
	w.wait(w.between(500*time.Millisecond, time.Second))
}

// wrongType puts what is no task in line, between those that are.
func wrongType(w *world) {
	ctx, cancel := bounded()
	defer cancel()
	var keys []string
	for range 10 {
		id := "junk-" + strconv.Itoa(w.intN(1_000_000_000))
		k := w.key("task:" + id)
		pipe := w.direct.Pipeline()
		switch w.intN(4) {
		case 0:
			pipe.Set(ctx, k, "no hash", time.Minute)
		case 1:
			pipe.RPush(ctx, k, "no", "hash")
		case 2:
			pipe.ZAdd(ctx, k, redis.Z{Score: 1, Member: "no hash"})
		case 3: // no key at all
		}
		pipe.LPush(ctx, w.key("wait"), id)
		_, _ = pipe.Exec(ctx)
		keys = append(keys, k)
	}
	w.wait(w.between(200*time.Millisecond, time.Second))
	_ = w.direct.Del(context.Background(), keys...).Err()
}

// powerFailure kills Redis and cuts from its AOF what came in the last second: so much a machine that loses its power may not have on
// its disk.
func powerFailure(w *world) {
	before, _ := aofSize(w.servers[0])
	if !w.wait(time.Second) {
		return
	}
	w.servers[0].Kill()
	w.lostWrites()
	path, err := aofPath(w.servers[0])
	if err == nil {
		err = truncate(path, before)
	}
	if err != nil {
		w.problem("cut the AOF: %v", err)
	}
	w.wait(w.between(0, time.Second))
	w.servers[0].RestartWith(w.t, "--aof-load-truncated", "yes")
	w.wait(2 * lease)
}

// otherProtocol lets a worker meet a later version of the protocol. It must refuse, and touch nothing.
func otherProtocol(w *world) {
	k := w.prefix + ":protocol"
	set := func(version string) {
		w.insist("SET "+k, func(ctx context.Context) error { return w.direct.Set(ctx, k, version, 0).Err() })
	}
	p := w.pick()
	set("2")
	p.shutdown()
	w.wait(w.between(300*time.Millisecond, 600*time.Millisecond))
	set("1")
	w.wait(w.between(300*time.Millisecond, 600*time.Millisecond))
}

func clusterFaults() []fault {
	return []fault{
		{
			name: "sentinel-failover", what: "a master with one replica and three sentinels is killed", part: inRedis, kind: sentinel,
			breaksRedis: true, loses: true, slow: true, inject: sentinelFailover,
		},
		{
			name: "cluster-failover", what: "the master of the queue's slot in a Cluster of 3 + 3 is killed", part: inRedis, kind: cluster,
			breaksRedis: true, loses: true, slow: true, inject: clusterFailover,
		},
		{name: "slot-move", what: "the queue's slot moves to another master of a Cluster", part: inRedis, kind: cluster, breaksRedis: true, inject: moveSlot},
	}
}

func (w *world) server(addr string) *redistest.Server {
	for _, s := range w.servers {
		if s.Addr == addr {
			return s
		}
	}
	return nil
}

// sentinelFailover kills the present master; when another one has its place it comes back as a replica.
func sentinelFailover(w *world) {
	master := w.sentinelMaster()
	old := w.server(master)
	if old == nil {
		w.problem("no server has the master's address %q", master)
		return
	}
	old.Kill()
	w.lostWrites()
	w.insist("another master", func(context.Context) error {
		if now := w.sentinelMaster(); now == master || now == "" {
			return fmt.Errorf("the sentinels say %q", now)
		}
		return nil
	})
	// As a replica from the start: else it would be a master of its own until a sentinel has seen it.
	host, port, _ := net.SplitHostPort(w.sentinelMaster())
	old.RestartWith(w.t, "--replicaof", host+" "+port)
	w.insist("two servers in step", func(ctx context.Context) error {
		info, err := w.direct.Info(ctx, "replication").Result()
		if err == nil && !strings.Contains(info, "state=online") {
			err = fmt.Errorf("the replica is not in step: %s", info)
		}
		return err
	})
	w.wait(w.between(2*time.Second, 4*time.Second))
}

// watchFailovers enters failovers that the sentinels decide on by themselves: these too lose what was not replicated.
func (w *world) watchFailovers() {
	if w.kind != sentinel {
		return
	}
	client := redis.NewSentinelClient(&redis.Options{Addr: w.addrs[0]})
	sub := client.Subscribe(context.Background(), "+switch-master", "+failover-end")
	if _, err := sub.Receive(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		for message := range sub.Channel() {
			w.t.Log(message.Channel, message.Payload)
			w.lostWrites()
		}
	})
	w.t.Cleanup(func() {
		_ = sub.Close()
		_ = client.Close()
		listening.Wait()
	})
}

func (w *world) sentinelMaster() string {
	for _, addr := range w.addrs {
		client := redis.NewSentinelClient(&redis.Options{Addr: addr})
		found, err := client.GetMasterAddrByName(context.Background(), redistest.SentinelName).Result()
		_ = client.Close()
		if err == nil && len(found) == 2 {
			return net.JoinHostPort(found[0], found[1])
		}
	}
	return ""
}

// clusterFailover kills the master that has the queue; when its replica has its place it comes back as a replica.
func clusterFailover(w *world) {
	master := w.slotOwner()
	old := w.server(master)
	if old == nil {
		w.problem("no server has the slot's address %q", master)
		return
	}
	old.Kill()
	w.lostWrites()
	w.insist("another master", func(context.Context) error {
		if now := w.slotOwner(); now == master || now == "" {
			return fmt.Errorf("the cluster says %q", now)
		}
		return nil
	})
	old.Restart(w.t)
	w.insist("two servers in step", func(ctx context.Context) error {
		return w.at(w.slotOwner(), func(c *redis.Client) error {
			info, err := c.Info(ctx, "replication").Result()
			if err == nil && !strings.Contains(info, "state=online") {
				err = fmt.Errorf("the replica is not in step: %s", info)
			}
			return err
		})
	})
	w.wait(w.between(2*time.Second, 4*time.Second))
}

func (w *world) at(addr string, do func(*redis.Client) error) error {
	c := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: time.Second, MaxRetries: -1, DialerRetries: 1})
	defer c.Close()
	return do(c)
}

// slotOwner is the address of the node that has the queue, as most of the cluster sees it.
func (w *world) slotOwner() string {
	votes := map[string]int{}
	best := ""
	for _, server := range w.servers {
		_ = w.at(server.Addr, func(c *redis.Client) error {
			shards, err := c.ClusterShards(context.Background()).Result()
			if err != nil {
				return err
			}
			slot, err := c.ClusterKeySlot(context.Background(), w.key("wait")).Result()
			if err != nil {
				return err
			}
			if owner := owner(shards, slot); owner != "" {
				votes[owner]++
			}
			return nil
		})
	}
	for addr, n := range votes {
		if best == "" || n > votes[best] {
			best = addr
		}
	}
	if votes[best] < len(w.servers)/2+1 {
		return ""
	}
	return best
}

// owner is the master that has a slot, as one node sees the cluster.
func owner(shards []redis.ClusterShard, slot int64) string {
	for _, shard := range shards {
		if !slices.ContainsFunc(shard.Slots, func(r redis.SlotRange) bool { return r.Start <= slot && slot <= r.End }) {
			continue
		}
		for _, node := range shard.Nodes {
			if node.Role == "master" && node.Health == "online" {
				return net.JoinHostPort(node.IP, strconv.FormatInt(node.Port, 10))
			}
		}
	}
	return ""
}

// moveSlot moves the queue's slot as redis-cli does it for operators: while scripts run.
func moveSlot(w *world) {
	from := w.slotOwner()
	to := ""
	var slot int64
	ids := map[string]string{}
	for _, server := range w.servers {
		_ = w.at(server.Addr, func(c *redis.Client) error {
			slot, _ = c.ClusterKeySlot(context.Background(), w.key("wait")).Result()
			ids[server.Addr], _ = c.ClusterMyID(context.Background()).Result()
			info, err := c.Info(context.Background(), "replication").Result()
			if err == nil && strings.Contains(info, "role:master") && server.Addr != from && (to == "" || w.intN(2) == 0) {
				to = server.Addr
			}
			return err
		})
	}
	if from == "" || to == "" {
		w.problem("move slot: from %q to %q", from, to)
		return
	}
	setSlot := func(addr string, args ...any) {
		w.insist("CLUSTER SETSLOT", func(ctx context.Context) error {
			return w.at(addr, func(c *redis.Client) error {
				return c.Do(ctx, append([]any{"CLUSTER", "SETSLOT", slot}, args...)...).Err()
			})
		})
	}
	setSlot(to, "IMPORTING", ids[from])
	setSlot(from, "MIGRATING", ids[to])
	w.insist("MIGRATE", func(ctx context.Context) error {
		return w.at(from, func(c *redis.Client) error { return migrate(ctx, c, slot, to) })
	})
	w.handsOver()
	setSlot(to, "NODE", ids[to])
	setSlot(from, "NODE", ids[to])
	w.handsOver() // when the workers look for it
	for _, server := range w.servers {
		_ = w.at(server.Addr, func(c *redis.Client) error {
			return c.Do(context.Background(), "CLUSTER", "SETSLOT", slot, "NODE", ids[to]).Err() // replicas refuse; they hear of it
		})
	}
	w.wait(w.between(500*time.Millisecond, 2*time.Second))
}

// migrate moves the keys of a slot in small steps.
func migrate(ctx context.Context, c *redis.Client, slot int64, to string) error {
	host, port, _ := net.SplitHostPort(to)
	for {
		keys, err := c.ClusterGetKeysInSlot(ctx, int(slot), 50).Result()
		if err != nil || len(keys) == 0 {
			return err
		}
		args := []any{"MIGRATE", host, port, "", 0, 2000, "REPLACE", "KEYS"}
		for _, k := range keys {
			args = append(args, k)
		}
		if err := c.Do(ctx, args...).Err(); err != nil {
			return err
		}
	}
}
