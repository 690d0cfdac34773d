package model

import (
	"flag"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redtask/redtask/internal/redistest"
)

var realRedis *redistest.Server

func TestMain(m *testing.M) { redistest.Main(m, &realRedis) }

// The tests do not run in parallel: each sets how many checks there are.

func TestModelOnMiniredis(t *testing.T) {
	mini := miniredis.RunT(t)
	test(t, mini.Addr(), mini, "100")
}

func TestModelOnRedis(t *testing.T) {
	redistest.Binary(t)
	test(t, realRedis.Addr, nil, "30")
}

// test runs so many checks of each kind, unless -rapid.checks says how many.
func test(t *testing.T, addr string, mini *miniredis.Miniredis, checks string) {
	setDefault(t, "rapid.checks", checks)
	setDefault(t, "rapid.steps", "60")
	s := connect(t, addr, mini)
	defer s.close()
	for name, byHand := range map[string]bool{"calls": false, "calls and edits by hand": true} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { t.Repeat(newMachine(t, s, byHand).actions()) })
		})
	}
}

// given are the flags on the command line.
var given = sync.OnceValue(func() map[string]bool {
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given
})

// setDefault sets a flag of rapid that is not given.
func setDefault(t *testing.T, name, value string) {
	if !given()[name] {
		require.NoError(t, flag.Set(name, value))
	}
}
