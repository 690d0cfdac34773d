package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
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
	master = Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := Start(t, "--replicaof", host+" "+port)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s 1\nsentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 5000\n",
		SentinelName, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	number, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: "127.0.0.1:" + strconv.Itoa(number), dir: t.TempDir(), args: []string{
		Binary(t), conf, "--sentinel", "--port", strconv.Itoa(number), "--bind", "127.0.0.1",
	}}
	if err := s.launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	await(t, replica.Addr, "its master", func(ctx context.Context, c *redis.Client) string {
		return c.Info(ctx, "replication").Val()
	}, "master_link_status:up")
	await(t, s.Addr, "both servers", func(ctx context.Context, c *redis.Client) string {
		return c.Info(ctx, "sentinel").Val()
	}, "slaves=1")
	return s.Addr, master
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
