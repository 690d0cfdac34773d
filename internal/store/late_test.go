package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A restart that was promised comes true even if the task ended by itself before it was told.
func TestRestartBeatsAnOrdinaryEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "n")) // told; nil
		e.commit("r", 0, func(b *Batch) {
			b.Leave("x", claim.member(), &Leave{State: "ENDED", Event: tail(&claim, 2)})
		})
		require.Equal(t, []string{"x"}, e.line(), "state %s", e.state("x"))
		require.Equal(t, "0", e.hash("x")["attempt"])
	})
}

// It also beats what would put the task back in its own way: the next run comes at once, its attempts counted anew.
func TestRestartBeatsARetry(t *testing.T) {
	for _, name := range []string{"scheduled", "wait"} {
		for _, holds := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, holds: %t", name, holds), func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					e.register("r")
					claim := e.own("r", "x")["x"]
					require.NoError(t, e.queue.Restart(e.ctx(), "x", "n")) // told; nil
					events := e.listen()
					leave := &Leave{
						State: strings.ToUpper(name), Delay: 60_000, Holds: holds, Event: tail(&claim, 2),
						Fields: []string{"attempt", "7", "error", "surprise", "history7", "{}"},
					}
					result := e.commit("r", 0, func(b *Batch) { b.Leave("x", claim.member(), leave) })
					require.Equal(t, []string{"ok"}, result.Codes)
					require.Equal(t, []string{"x"}, e.line(), "state %s", e.state("x"))
					require.Empty(t, e.zset(e.keys.scheduled))
					hash := e.hash("x")
					require.Equal(t, "0", hash["attempt"])
					require.Equal(t, "{}", hash["history7"])
					for _, field := range []string{"state", "error", "runner", "due_at"} {
						require.NotContains(t, hash, field)
					}
					require.Empty(t, e.members("r"))
					require.Zero(t, e.do("EXISTS", e.keys.controlHash("r")), "the intent is settled")
					require.Equal(t, []string{"wait x"}, events.kinds())
				})
			})
		}
	}
}

// A batch that was held up in the network and arrives after its successor is not applied a second time.
func TestLateDuplicateBatch(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.start("a", "b", "c", "d")
		send := func(number int64) *Result {
			result, err := e.queue.Commit(e.ctx(), "r", &Batch{Number: number, Claim: 1})
			require.NoError(t, err)
			return result
		}
		require.Equal(t, Applied, send(1).Outcome)
		require.Equal(t, Applied, send(2).Outcome)
		late := send(1)  // retransmitted by the kernel of a connection that timed out
		again := send(2) // its answer had been lost
		require.Equal(t, Replayed, late.Outcome)
		require.Equal(t, Replayed, again.Outcome)
	})
}
