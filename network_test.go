package redtask

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// hook sees each script call of a client, by its number of keys: commit 9, renew 6, adopt 4. An error that it returns is the answer.
type hook struct {
	lossy
	script func(keys int) error
}

const (
	keysOfCommit = 9
	keysOfRenew  = 6
	keysOfAdopt  = 4

	keysOfRegister = 3
)

// hooked is the same server through a client of its own that has the hook.
func (e *env) hooked(t *testing.T, script func(keys int) error) *env {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(&hook{script: script})
	return &env{rdb: rdb, prefix: e.prefix, mini: e.mini, log: e.log}
}

func (h *hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); args[0] == "evalsha" {
			if err := h.script(args[2].(int)); err != nil {
				cmd.SetErr(err)
				return err
			}
		}
		return next(ctx, cmd)
	}
}

// proxy is a TCP proxy whose client sides can be cut while its server sides stay open: a half-open connection.
type proxy struct {
	l       net.Listener
	target  string
	mu      sync.Mutex
	refuse  bool
	clients []net.Conn
	servers []net.Conn
}

func newProxy(t testing.TB, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{l: l, target: target}
	go p.serve()
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range append(p.clients, p.servers...) {
			_ = c.Close()
		}
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) serve() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.refuse {
			_ = c.Close()
			p.mu.Unlock()
			continue
		}
		s, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = c.Close()
			p.mu.Unlock()
			continue
		}
		p.clients, p.servers = append(p.clients, c), append(p.servers, s)
		p.mu.Unlock()
		go func() {
			if _, err := io.Copy(s, c); err == nil { // an orderly end; a cut leaves the server side open
				_ = s.Close()
			}
		}()
		go func() { _, _ = io.Copy(c, s); _ = c.Close() }()
	}
}

// cut closes the clients' sides only (half), or both.
func (p *proxy) cut(half, refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
	for _, c := range p.clients {
		_ = c.Close()
	}
	if !half {
		for _, s := range p.servers {
			_ = s.Close()
		}
	}
	p.clients, p.servers = nil, nil
}

func (p *proxy) allow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
}
