package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a redis-server of one measurement, without persistence, on a free port of the loopback interface.
type server struct {
	addr   string
	dir    string
	cmd    *exec.Cmd
	client *redis.Client // one connection, for what the bench itself asks
}

var errNoServer = errors.New("redis-server is not in PATH: install Redis 6.2 or later, as with `apt-get install -y redis-server` or `brew install redis`")

func startServer(ctx context.Context) (*server, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errNoServer
	}
	dir, err := os.MkdirTemp("", "redtask-bench")
	if err != nil {
		return nil, err
	}
	var last error
	for range 5 { // another process may take the port between our look and the server's bind
		s, err := launchServer(ctx, binary, dir)
		if err == nil {
			return s, nil
		}
		last = err
	}
	_ = os.RemoveAll(dir)
	return nil, last
}

func launchServer(ctx context.Context, binary, dir string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	logPath := filepath.Join(dir, "log")
	s := &server{addr: "127.0.0.1:" + port, dir: dir}
	s.cmd = exec.Command(binary, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no", "--logfile", logPath)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.client = redis.NewClient(&redis.Options{Addr: s.addr, PoolSize: 1, MaxRetries: -1, ReadTimeout: time.Minute})
	if err := s.awaitReady(ctx); err != nil {
		s.end()
		text, _ := os.ReadFile(logPath)
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return s, nil
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), listener.Close()
}

func (s *server) awaitReady(ctx context.Context) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		info, err := s.client.Info(ctx, "server").Result()
		switch {
		case err == nil && strings.Contains(info, fmt.Sprintf("process_id:%d\r", s.cmd.Process.Pid)):
			return nil
		case err == nil:
			return fmt.Errorf("another redis-server has %s", s.addr)
		case ctx.Err() != nil || time.Now().After(deadline):
			return fmt.Errorf("redis-server at %s: %w", s.addr, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// end kills the process, but leaves its folder for the next try.
func (s *server) end() {
	_ = s.client.Close()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *server) close() {
	s.end()
	_ = os.RemoveAll(s.dir)
}
