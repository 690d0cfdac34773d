package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// machine says where, and when, it was measured.
func machine(ctx context.Context, now time.Time) (string, error) {
	s, err := startServer(ctx)
	if err != nil {
		return "", err
	}
	defer s.close()
	text, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(text, "redis_version:")
	version, _, _ := strings.Cut(rest, "\r")
	return fmt.Sprintf("%d cores of %s, Redis %s, %s, %s/%s, %s", runtime.NumCPU(), processor(), version, runtime.Version(), runtime.GOOS, runtime.GOARCH,
		now.Format(time.DateOnly)), nil
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(text) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "an unknown model"
}
