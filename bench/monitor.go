package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// monitor is told each command that the server runs.
type monitor struct {
	conn   net.Conn
	reader *bufio.Reader
}

// monitor tells the commands that clients send from those within scripts, as INFO does not. It costs the server something for each
// command, so this is for idle ones only.
func (s *server) monitor(ctx context.Context) (*monitor, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	m := &monitor{conn: conn, reader: bufio.NewReader(conn)}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		m.close()
		return nil, err
	}
	if line, err := m.reader.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
		m.close()
		return nil, fmt.Errorf("MONITOR: answer %q: %w", line, err)
	}
	return m, nil
}

func (m *monitor) close() { _ = m.conn.Close() }

// calls counts what clients send from the start of the monitor until a while from now.
func (m *monitor) calls(ctx context.Context, window time.Duration) (int, error) {
	if err := m.conn.SetReadDeadline(time.Now().Add(window)); err != nil {
		return 0, err
	}
	calls := 0
	for {
		line, err := m.reader.ReadString('\n')
		switch {
		case err != nil && ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil && isTimeout(err):
			return calls, nil
		case err != nil:
			return 0, fmt.Errorf("MONITOR: %w", err)
		case isClientCall(line):
			calls++
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// isClientCall reports whether a line of MONITOR, as `+1790000000.123456 [0 127.0.0.1:50000] "PING"`, is a client's; within scripts it has
// `[0 lua]`.
func isClientCall(line string) bool {
	_, rest, ok := strings.Cut(line, " [")
	source, _, closed := strings.Cut(rest, "]")
	return ok && closed && strings.HasPrefix(line, "+") && !strings.HasSuffix(source, " lua")
}
