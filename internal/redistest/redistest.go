// Package redistest starts real redis-server processes for tests, on free loopback ports, and kills, restarts and freezes them.
package redistest

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

// Server is one redis-server process.
type Server struct {
	Addr string
	tls  *tls.Config // of those who ask it; nil without TLS
	dir  string
	env  []string
	args []string
	cmd  *exec.Cmd
}

// Binary finds redis-server. Without one the test is skipped, but in CI (the variable CI is set) it fails.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("CI needs a redis-server in PATH: apt-get install -y redis-server")
		}
		t.Skip("no redis-server in PATH: install it to run the tests on real Redis")
	}
	return path
}

// Start starts a server that ends with the test; args are further options of redis-server.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return startFor(t, nil, nil, args)
}

// StartEnv is [Start] with further variables in the server's environment.
func StartEnv(t testing.TB, env []string, args ...string) *Server {
	t.Helper()
	return startFor(t, env, nil, args)
}

// StartTLS starts a server that answers over TLS only, to clients of this configuration; args name its certificate.
func StartTLS(t testing.TB, config *tls.Config, args ...string) *Server {
	t.Helper()
	return startFor(t, nil, config, args)
}

func startFor(t testing.TB, env []string, config *tls.Config, args []string) *Server {
	t.Helper()
	s, err := start(Binary(t), t.TempDir(), env, config, args)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// Main is a package's TestMain: its tests share a server, nil without a redis-server, and must leave no goroutine behind.
func Main(m *testing.M, server **Server) {
	shared, end := share()
	*server = shared
	code := m.Run()
	end()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// share starts the server, and returns what ends it.
func share() (*Server, func()) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, func() {}
	}
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		panic(err)
	}
	s, err := start(binary, dir, nil, nil, nil)
	if err != nil {
		panic(err)
	}
	return s, func() {
		s.Kill()
		_ = os.RemoveAll(dir)
	}
}

func start(binary, dir string, env []string, config *tls.Config, args []string) (*Server, error) {
	ports := []string{"--port"}
	if config != nil {
		ports = []string{"--port", "0", "--tls-port"}
	}
	s := &Server{tls: config, dir: dir, env: env}
	return s, OnFreePort(func(port string) error {
		s.Addr = "127.0.0.1:" + port
		s.args = slices.Concat([]string{binary}, ports, []string{
			port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no",
		}, args)
		return s.launch()
	})
}

// OnFreePort begins to listen, at other ports where that fails: between the look for one and the listening another process, or a fork of
// this one, may hold it.
func OnFreePort(listen func(port string) error) error {
	var last error
	for range 5 {
		port, err := FreePort()
		if err != nil {
			return err
		}
		if last = listen(strconv.Itoa(port)); last == nil {
			return nil
		}
	}
	return last
}

// FreePort finds a port below those that systems give to outgoing connections: one of these may take the port of a server that is killed
// and started again. A cluster bus has room 10,000 higher.
func FreePort() (int, error) {
	var last error
	for range 100 {
		port := 10_000 + rand.IntN(12_000)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, listener.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

func (s *Server) launch() error {
	logPath := filepath.Join(s.dir, "log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append(os.Environ(), s.env...)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := s.awaitReady(); err != nil {
		s.Kill()
		text, _ := os.ReadFile(logPath)
		return fmt.Errorf("%w: %s", err, text)
	}
	return nil
}

func (s *Server) awaitReady() error {
	client := redis.NewClient(&redis.Options{Addr: s.Addr, TLSConfig: s.tls, MaxRetries: -1})
	defer client.Close()
	deadline := time.Now().Add(20 * time.Second)
	for {
		info, err := client.Info(context.Background(), "server").Result()
		if err == nil {
			if !strings.Contains(info, fmt.Sprintf("process_id:%d\r", s.cmd.Process.Pid)) {
				return fmt.Errorf("another redis-server has %s", s.Addr)
			}
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("redis-server at %s: %w", s.Addr, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Kill ends the server as kill -9 does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Restart starts a killed server again at its address.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.RestartWith(t)
}

// RestartWith is [Server.Restart] with further options of redis-server, for this one start.
func (s *Server) RestartWith(t testing.TB, args ...string) {
	t.Helper()
	s.Kill()
	usual := s.args
	defer func() { s.args = usual }()
	s.args = slices.Concat(usual, args)
	if err := s.launch(); err != nil {
		t.Fatal(err)
	}
}

// Freeze stops the process without closing its connections, as a network that swallows packets would; Thaw continues it.
func (s *Server) Freeze(t testing.TB) { s.signal(t, syscall.SIGSTOP) }

func (s *Server) Thaw(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// Client connects to the server until the test ends.
func (s *Server) Client(t testing.TB) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: s.Addr, TLSConfig: s.tls})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Dir is where the server keeps its files.
func (s *Server) Dir() string { return s.dir }

// Cluster starts a Redis Cluster of three masters and returns their addresses.
func Cluster(t testing.TB) []string {
	t.Helper()
	var addrs []string
	for _, s := range ClusterOf(t, 3, 0) {
		addrs = append(addrs, s.Addr)
	}
	return addrs
}

// promptSync lets a replica have its master's data at once, not after some seconds.
var promptSync = []string{"--repl-diskless-sync-delay", "0"}

// inStep says whether a server is a master, or a replica that has its master's data.
func inStep(ctx context.Context, c *redis.Client) string {
	info := c.Info(ctx, "replication").Val()
	return strconv.FormatBool(strings.Contains(info, "role:master") || strings.Contains(info, "master_link_status:up"))
}

// ClusterOf starts a Redis Cluster; each master has so many replicas. args are further options of redis-server.
func ClusterOf(t testing.TB, masters, replicas int, args ...string) []*Server {
	t.Helper()
	var servers []*Server
	create := []string{"--cluster", "create", "--cluster-yes", "--cluster-replicas", strconv.Itoa(replicas)}
	for range masters * (1 + replicas) {
		s := Start(t, slices.Concat([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "2000"}, promptSync, args)...)
		servers = append(servers, s)
		create = append(create, s.Addr)
	}
	out, err := exec.Command("redis-cli", create...).CombinedOutput()
	if err != nil {
		t.Fatalf("create cluster: %v: %s", err, out)
	}
	ask := func(ctx context.Context, c *redis.Client) string { return c.ClusterInfo(ctx).Val() }
	for _, s := range servers {
		for _, wanted := range []string{"cluster_state:ok", "cluster_size:" + strconv.Itoa(masters), fmt.Sprintf("cluster_known_nodes:%d", len(servers))} {
			await(t, s.Addr, wanted, ask, wanted)
		}
		await(t, s.Addr, "its data", inStep, "true") // a replica that has no data yet does not take its master's place
	}
	return servers
}
