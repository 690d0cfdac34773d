package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// log is what an item says of lines that are numbered from first on.
func logged(c *Claim, keep, first, n int) func(b *Batch) {
	fields := []string{fmt.Sprint(keep), fmt.Sprint(first)}
	for i := range n {
		fields = append(fields, fmt.Sprintf("%d of %d", first+i, c.Epoch))
	}
	return func(b *Batch) { b.Log(c.ID, c.member(), fields...) }
}

func (e *env) log(id string) string {
	e.t.Helper()
	return strings.Join(e.list(e.keys.log(id)), ", ")
}

// A log has the last lines, of whatever run, each once; all are counted.
func TestCommitLog(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		first := e.own("r", "x")["x"]
		require.Equal(t, []string{"ok"}, e.commit("r", 0, logged(&first, 4, 1, 3)).Codes)
		require.Equal(t, "3", e.hash("x")["log"])
		require.Equal(t, []string{"ok"}, e.commit("r", 0, logged(&first, 4, 4, 2)).Codes)
		require.Equal(t, strings.ReplaceAll("2 of E, 3 of E, 4 of E, 5 of E", "E", fmt.Sprint(first.Epoch)), e.log("x"))
		require.Equal(t, "5", e.hash("x")["log"])

		second := e.again("r", &first)
		e.commit("r", 0, logged(&second, 4, 1, 1))
		require.Equal(t, fmt.Sprintf("3 of %[1]d, 4 of %[1]d, 5 of %[1]d, 1 of %[2]d", first.Epoch, second.Epoch), e.log("x"))
		require.Equal(t, "6", e.hash("x")["log"])
	})
}

// again gives a task back and claims it anew.
func (e *env) again(runner string, c *Claim) Claim {
	e.t.Helper()
	result := e.commit(runner, 1, func(b *Batch) { items["wait"](b, c) })
	require.Len(e.t, result.Claims, 1)
	return result.Claims[0]
}

// Lines that are said again are there once; those that were lost before they came are counted.
func TestCommitLogNumbers(t *testing.T) {
	cases := map[string]struct {
		first, n int
		total    string
		lines    []int
	}{
		"all said again":  {1, 3, "3", []int{1, 2, 3}},
		"some said again": {3, 2, "4", []int{1, 2, 3, 4}},
		"older ones":      {1, 1, "3", []int{1, 2, 3}},
		"the next":        {4, 1, "4", []int{1, 2, 3, 4}},
		"some are lost":   {6, 2, "7", []int{1, 2, 3, 6, 7}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.commit("r", 0, logged(&claim, 10, 1, 3))
				require.Equal(t, []string{"ok"}, e.commit("r", 0, logged(&claim, 10, test.first, test.n)).Codes)
				var want []string
				for _, n := range test.lines {
					want = append(want, fmt.Sprintf("%d of %d", n, claim.Epoch))
				}
				require.Equal(t, want, e.list(e.keys.log("x")))
				require.Equal(t, test.total, e.hash("x")["log"])
			})
		})
	}
}

// A log goes with its record: removed, swept, or started anew under its ID. It stays when the task is restarted, or run again by hand.
func TestLogGoesWithItsRecord(t *testing.T) {
	cases := map[string]struct {
		call func(e *env)
		gone bool
	}{
		"remove": {func(e *env) { require.NoError(e.t, e.queue.Remove(e.ctx(), "x")) }, true},
		"sweep": {func(e *env) {
			n, err := e.queue.Sweep(e.ctx(), "ENDED", []Final{{ID: "x", EndedAt: e.hash("x")["ended_at"]}})
			require.NoError(e.t, err)
			require.Equal(e.t, 1, n)
		}, true},
		"start anew": {func(e *env) {
			faults, err := e.queue.Start(e.ctx(), []NewTask{{ID: "x", Nonce: "another", Task: "test/a", Data: "1"}})
			require.NoError(e.t, err)
			require.NoError(e.t, faults[0])
			require.NotContains(e.t, e.hash("x"), "log")
		}, true},
		"restart": {func(e *env) { require.NoError(e.t, e.queue.Restart(e.ctx(), "x", "n")) }, false},
		"by hand": {func(e *env) {
			e.set("x", "state", "WAIT")
			e.do("LPUSH", e.keys.wait, "x")
			require.Len(e.t, e.commit("r", 1, nil).Claims, 1)
		}, false},
		"start refused": {func(e *env) {
			e.set("x", "state", "RUNNING")
			faults, err := e.queue.Start(e.ctx(), []NewTask{{ID: "x", Nonce: "another", Task: "test/a", Data: "1"}})
			require.NoError(e.t, err)
			require.ErrorIs(e.t, faults[0], ErrExists)
		}, false},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.commit("r", 0, func(b *Batch) {
					logged(&claim, 10, 1, 2)(b)
					items["ended"](b, &claim)
				})
				before := e.log("x")
				require.NotEmpty(t, before)
				test.call(e)
				if test.gone {
					require.Empty(t, e.log("x"))
					return
				}
				require.Equal(t, before, e.log("x"))
				require.Equal(t, "2", e.hash("x")["log"])
			})
		})
	}
}

// A log's key that holds another type spoils nothing but the log, and goes with the record.
func TestCommitLogOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.do("SET", e.keys.log("x"), "spoilt")
		result := e.commit("r", 0, func(b *Batch) {
			logged(&claim, 10, 1, 2)(b)
			items["ended"](b, &claim)
		})
		require.Len(t, result.Codes, 2)
		require.ErrorIs(t, Broken(result.Codes[0]), ErrWrongType)
		require.Equal(t, "ok", result.Codes[1])
		require.Equal(t, "ENDED", e.state("x"))
		_, err := e.queue.Log(e.ctx(), "x")
		require.ErrorIs(t, err, ErrWrongType)
		require.NoError(t, e.queue.Remove(e.ctx(), "x"))
		require.Zero(t, e.do("EXISTS", e.keys.log("x")))
	})
}

// A record whose key changed its type has no log.
func TestCommitLogWithoutAHash(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.spoil(e.keys.task("x"))
		require.ErrorIs(t, Broken(e.commit("r", 0, logged(&claim, 10, 1, 2)).Codes[0]), ErrWrongType)
		require.Empty(t, e.log("x"))
	})
}

func TestFullLog(t *testing.T) {
	var claim Claim
	e := onFull(t, func(e *env) { claim = e.own("r", "x")["x"] })
	result := e.commit("r", 0, func(b *Batch) {
		logged(&claim, 10, 1, 2)(b)
		items["ended"](b, &claim)
	})
	require.Equal(t, []string{"ok", "ok"}, result.Codes)
	lines, err := e.queue.Log(e.ctx(), "x")
	require.NoError(t, err)
	require.Len(t, lines, 2)
	require.Equal(t, "ENDED", e.state("x"))
}

func TestLogOfNobody(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		_, err := e.queue.Log(e.ctx(), "nobody")
		require.ErrorIs(t, err, ErrMissing)
		e.start("x")
		lines, err := e.queue.Log(e.ctx(), "x")
		require.NoError(t, err)
		require.Empty(t, lines)
	})
}
