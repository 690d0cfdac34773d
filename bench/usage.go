package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// usage is what a process has used. Linux tells it in /proc; elsewhere memory is 0, and its cells are "-".
type usage struct {
	CPU  float64 `json:"cpu"`  // seconds, in user and system mode
	RSS  int64   `json:"rss"`  // bytes
	Peak int64   `json:"peak"` // of RSS, bytes
}

// readUsage is of this process, or of the one that does a hosted system's work.
func readUsage(s system) (usage, error) {
	pid := os.Getpid()
	h, elsewhere := s.(hosted)
	if elsewhere {
		pid = h.pid()
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	u := usage{RSS: kibibytes(status, "VmRSS:"), Peak: kibibytes(status, "VmHWM:")}
	if elsewhere {
		var err error
		u.CPU, err = ticks(pid)
		return u, err
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	u.CPU = seconds(r.Utime) + seconds(r.Stime)
	return u, nil
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// kibibytes reads a line as `VmRSS:     1234 kB`, and returns bytes.
func kibibytes(status []byte, field string) int64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(field)); ok {
			words := bytes.Fields(rest)
			if len(words) > 0 {
				n, _ := strconv.ParseInt(string(words[0]), 10, 64)
				return n * 1024
			}
		}
	}
	return 0
}

const ticksPerSecond = 100 // as Linux shows times to programs

// ticks reads another process' CPU seconds: fields 14 and 15, counted from behind the command's name, which may hold spaces.
func ticks(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	words := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(words) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is too short: %q", pid, text)
	}
	user, _ := strconv.ParseFloat(string(words[11]), 64)
	system, _ := strconv.ParseFloat(string(words[12]), 64)
	return (user + system) / ticksPerSecond, nil
}
