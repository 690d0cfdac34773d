package redistest

import (
	"context"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Replay makes a client of one connection to addr, for benchmarks of what a client does itself. Once freeze is called, no server is asked
// any more: each command gets the bytes that answered the last one before. Not for use from many goroutines at once.
func Replay(t testing.TB, addr string) (rdb *redis.Client, freeze func()) {
	t.Helper()
	conn := &replayConn{}
	rdb = redis.NewClient(&redis.Options{
		Addr: addr, PoolSize: 1, MaxActiveConns: 1, MaxRetries: -1,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var err error
			conn.Conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return conn, err
		},
	})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb, func() { conn.frozen = true }
}

// replayConn keeps what was read since the last write, and once frozen answers each write with that.
type replayConn struct {
	net.Conn
	frozen bool
	answer []byte
	unread []byte // of the answer
}

func (c *replayConn) Write(p []byte) (int, error) {
	if c.frozen {
		c.unread = c.answer
		return len(p), nil
	}
	c.answer = nil
	return c.Conn.Write(p)
}

func (c *replayConn) Read(p []byte) (int, error) {
	if c.frozen && len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	c.answer = append(c.answer, p[:n]...)
	return n, err
}
