package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// SentinelName is what the sentinel of [Sentinel] calls its master.
const SentinelName = "main"

// Sentinel starts a master, a replica and a sentinel that watches both, and returns the sentinel's address and the master.
func Sentinel(t testing.TB) (addr string, master *Server) {
	t.Helper()
	addrs, servers := Sentinels(t, 1, 500*time.Millisecond)
	return addrs[0], servers[0]
}

// Sentinels starts a master, a replica and sentinels that watch both, the majority of which decides. It returns the addresses of the
// sentinels, and the master before the replica. A master that says nothing for so long is down. args are further options of both.
func Sentinels(t testing.TB, number int, downAfter time.Duration, args ...string) (addrs []string, servers []*Server) {
	t.Helper()
	args = slices.Concat(promptSync, args)
	master := Start(t, args...)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := Start(t, append([]string{"--replicaof", host + " " + port}, args...)...)
	await(t, replica.Addr, "its master", func(ctx context.Context, c *redis.Client) string {
		return c.Info(ctx, "replication").Val()
	}, "master_link_status:up")
	for range number {
		addrs = append(addrs, sentinel(t, host, port, number/2+1, downAfter))
	}
	for _, addr := range addrs {
		for _, wanted := range []string{"slaves=1", fmt.Sprintf("sentinels=%d", number)} {
			await(t, addr, wanted, func(ctx context.Context, c *redis.Client) string { return c.Info(ctx, "sentinel").Val() }, wanted)
		}
	}
	return addrs, []*Server{master, replica}
}

func sentinel(t testing.TB, host, port string, quorum int, downAfter time.Duration) string {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s %[4]d\nsentinel down-after-milliseconds %[1]s %[5]d\nsentinel failover-timeout %[1]s 5000\n",
		SentinelName, host, port, quorum, downAfter.Milliseconds())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	binary, s := Binary(t), &Server{dir: t.TempDir()}
	err := OnFreePort(func(port string) error {
		s.Addr, s.args = "127.0.0.1:"+port, []string{binary, conf, "--sentinel", "--port", port, "--bind", "127.0.0.1"}
		return s.launch()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s.Addr
}

// await asks a server until its answer has what is wanted.
func await(t testing.TB, addr, what string, ask func(context.Context, *redis.Client) string, wanted string) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer := ask(context.Background(), client)
		if strings.Contains(answer, wanted) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not see %s: %s", addr, what, answer)
		}
	}
}
