package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the program of the tests be the children that they start.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(runChild(os.Args[1:], os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// testServer starts a server that ends with the test. Without a redis-server the test is skipped, but in CI it fails.
func testServer(t *testing.T) *server {
	t.Helper()
	s, err := startServer(t.Context())
	if err == errNoServer && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(s.close)
	return s
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// available lists the entrants that can run here, optional ones as well if their parts are there.
func available(t *testing.T) []entrant {
	var optional []string
	for _, e := range entrants() {
		if e.optional {
			optional = append(optional, e.name)
		}
	}
	chosen, notes, err := choose(entrants(), nil, optional)
	require.NoError(t, err)
	for _, note := range notes {
		t.Log(note)
	}
	return chosen
}

func newMeasurement(s *server, e *entrant) *measurement {
	return &measurement{workload: &workload{name: "test"}, parameter: "1", entrant: e, repeat: 1, quick: true, server: s}
}
