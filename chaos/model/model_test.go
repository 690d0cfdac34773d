package model

import (
	"flag"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/redtask/redtask/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests do not run in parallel: each sets how many checks there are.

func TestModelOnMiniredis(t *testing.T) {
	mini := miniredis.RunT(t)
	test(t, mini.Addr(), mini, "50")
}

func TestModelOnRedis(t *testing.T) {
	test(t, redistest.Start(t).Addr, nil, "40")
}

// test runs so many checks of each kind, unless -rapid.checks says how many.
func test(t *testing.T, addr string, mini *miniredis.Miniredis, checks string) {
	setDefault(t, "rapid.checks", checks)
	setDefault(t, "rapid.steps", "60")
	s := connect(t, addr, mini)
	defer s.close()
	t.Run("calls", rapid.MakeCheck(func(t *rapid.T) { check(t, s, false) }))
	t.Run("calls and edits by hand", rapid.MakeCheck(func(t *rapid.T) { check(t, s, true) }))
}

func check(t *rapid.T, s *server, byHand bool) {
	m := newMachine(t, s, byHand)
	t.Repeat(m.actions())
	m.drain(t)
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
