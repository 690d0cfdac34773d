package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// counters are what a server has done, and holds, at one moment.
type counters struct {
	at       time.Time
	cpu      float64 // seconds
	commands float64 // all, those within scripts as well
	trips    float64 // reads from connections: commands that were sent together are one, those within scripts none
	memory   float64 // bytes
	clients  float64
}

// ownCall is what one look at the counters itself adds to them, until the next.
var ownCall = counters{commands: 1, trips: 1}

func (s *server) counters(ctx context.Context) (counters, error) {
	text, err := s.client.Info(ctx).Result()
	if err != nil {
		return counters{}, fmt.Errorf("read the counters of redis: %w", err)
	}
	return parseCounters(text)
}

func parseCounters(text string) (counters, error) {
	fields := map[string]float64{
		"used_cpu_user": 0, "used_cpu_sys": 0, "total_commands_processed": 0, "total_reads_processed": 0, "used_memory": 0, "connected_clients": 0,
	}
	missing := len(fields)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if _, wanted := fields[name]; !wanted {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return counters{}, fmt.Errorf("INFO: %s is %q", name, value)
		}
		fields[name] = number
		missing--
	}
	if missing != 0 {
		return counters{}, fmt.Errorf("INFO lacks fields: is this Redis 6.2 or later?")
	}
	return counters{
		at: time.Now(), cpu: fields["used_cpu_user"] + fields["used_cpu_sys"], commands: fields["total_commands_processed"],
		trips: fields["total_reads_processed"], memory: fields["used_memory"], clients: fields["connected_clients"],
	}, nil
}

// since is what was done between two looks.
func (c counters) since(before counters) counters {
	return counters{
		at: c.at, cpu: c.cpu - before.cpu, commands: c.commands - before.commands - ownCall.commands, trips: c.trips - before.trips - ownCall.trips,
		memory: c.memory - before.memory,
	}
}

// slowest returns the longest command in ms since resetSlow; those under slowThreshold count as 0.
func (s *server) slowest(ctx context.Context) (float64, error) {
	found, err := s.client.SlowLogGet(ctx, -1).Result()
	if err != nil {
		return 0, fmt.Errorf("read the slow log of redis: %w", err)
	}
	longest := time.Duration(0)
	for _, entry := range found {
		longest = max(longest, entry.Duration)
	}
	return longest.Seconds() * 1000, nil
}

const slowThreshold = 100 * time.Microsecond

func (s *server) resetSlow(ctx context.Context) error {
	if err := s.client.ConfigSet(ctx, "slowlog-log-slower-than", strconv.FormatInt(slowThreshold.Microseconds(), 10)).Err(); err != nil {
		return err
	}
	if err := s.client.ConfigSet(ctx, "slowlog-max-len", "4096").Err(); err != nil {
		return err
	}
	return s.client.SlowLogReset(ctx).Err()
}
