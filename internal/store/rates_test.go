package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const rateKey, heldKey = "rate:test/a", "held:test/a"

// timer is when a timer is due, Unix ms.
func (e *env) timer(name string) int64 {
	e.t.Helper()
	at, err := e.rdb.ZScore(e.ctx(), e.keys.base+"timers", name).Result()
	require.NoError(e.t, err)
	return int64(at)
}

// A rate to the millisecond: a task begins when the start that is one rate before it is as old as the window, and everybody is told when
// that will be.
func TestRateToTheMillisecond(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	begin := time.UnixMilli(1_790_000_000_000)
	at := func(ms int) { e.mini.SetTime(begin.Add(time.Duration(ms) * time.Millisecond)) }
	due := func(ms int, what string) {
		t.Helper()
		require.Equal(t, begin.UnixMilli()+int64(ms), e.timer(heldKey), what)
	}
	at(0)
	e.registerWithLimits("r", `{"rate":3,"per_ms":1000}`)
	e.start("0", "1")
	require.Equal(t, []string{"0", "1"}, claimed(e.commit("r", 10, nil)))
	at(400)
	e.start("2", "3", "4", "5", "6")
	result := e.commit("r", 10, nil)
	require.Equal(t, []string{"2"}, claimed(result))
	require.Equal(t, begin.UnixMilli()+1000, result.NextDue)
	due(1000, "of the oldest start that counts")
	require.Len(t, e.list(e.keys.base+rateKey), 3)
	require.Equal(t, time.Second, e.mini.TTL(e.keys.base+rateKey))
	at(999)
	promoted, err := e.queue.Promote(e.ctx(), 10)
	require.NoError(t, err)
	require.Equal(t, begin.UnixMilli()+1000, promoted.NextDue)
	require.Empty(t, e.line())
	at(1000)
	promoted, err = e.queue.Promote(e.ctx(), 10)
	require.NoError(t, err)
	require.Greater(t, promoted.NextDue, promoted.Now, "it is not looked at again and again")
	require.Equal(t, []string{"3"}, e.line())
	result = e.commit("r", 10, nil)
	require.Equal(t, []string{"3"}, claimed(result))
	require.Equal(t, []string{"4"}, e.line(), "there is room for one more")
	result = e.commit("r", 10, nil)
	require.Equal(t, []string{"4"}, claimed(result))
	require.Equal(t, begin.UnixMilli()+1400, result.NextDue)
	due(1400, "follows the start at 400")
	require.Empty(t, e.line())
	require.Len(t, e.list(e.keys.base+rateKey), 3, "older ones do not count")
	at(1400)
	e.start("7")
	_, err = e.queue.Promote(e.ctx(), 10)
	require.NoError(t, err)
	require.Equal(t, []string{"5"}, claimed(e.commit("r", 10, nil)), "7 is behind 6")
	require.Equal(t, []string{"6", "7"}, e.zset(e.keys.base+heldKey))
	due(2000, "")
}

// When a rate lets several begin they come in their order, and before what is in line already.
func TestRateBringsSeveral(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"rate":4,"per_ms":60000}`)
		e.start(numbered("", 12)...)
		require.Len(t, claimed(e.commit("r", 20, nil)), 4)
		require.Equal(t, numbered("", 12)[4:], e.zset(e.keys.base+heldKey))
		e.set("new", "task", "test/b")
		e.do("LPUSH", e.keys.wait, "new")
		e.do("DEL", e.keys.base+rateKey) // the window is over
		e.lookAt(heldKey)
		require.Equal(t, []string{"new", "4"}, e.line())
		require.Equal(t, []string{"4"}, claimed(e.commit("r", 1, nil)))
		require.Equal(t, []string{"new", "7", "6", "5"}, e.line())
		result := e.commit("r", 10, nil)
		require.Equal(t, []string{"5", "6", "7", "new"}, claimed(result))
		require.Empty(t, e.line())
		require.Equal(t, numbered("", 12)[8:], e.zset(e.keys.base+heldKey))
		require.InDelta(t, result.Now+60_000, result.NextDue, 1000)
	})
}

// A rate of more than one step of the script looks at: the oldest starts of its window make room.
func TestBigRate(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"rate":100,"per_ms":60000}`)
		now, err := e.rdb.Time(e.ctx()).Result()
		require.NoError(t, err)
		for i := range 100 {
			age := time.Second
			if i < 10 {
				age = time.Hour
			}
			e.do("LPUSH", e.keys.base+rateKey, now.Add(-age).UnixMilli())
		}
		e.start(numbered("", 20)...)
		result := e.commit("r", 20, nil)
		require.Equal(t, numbered("", 10), claimed(result))
		require.InDelta(t, now.UnixMilli()+59_000, result.NextDue, 1000)
	})
}

// A task whose record was deleted while it ran has its place still. Started again it does not wait for itself.
func TestPlaceOfItsOwn(t *testing.T) {
	for _, limits := range []string{`{"concurrency":1}`, `{"concurrency":1,"rate":5,"per_ms":60000}`} {
		onBothWith(t, limits, func(t *testing.T, e *env) {
			e.registerWithLimits("r", limits)
			e.do("SADD", e.keys.base+"limit:test/a", "again")
			e.start("again", "other")
			require.Equal(t, []string{"again"}, claimed(e.commit("r", 10, nil)))
		})
	}
}

func onBothWith(t *testing.T, name string, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { onBoth(t, test) })
}

// The safety net takes the places of those that do not run, and no others.
func TestWhosePlacesTheSafetyNetTakes(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":4}`)
		e.start("runs", "too")
		require.Len(t, claimed(e.commit("r", 10, nil)), 2)
		e.set("lost", "task", "test/a", "state", "RUNNING", "runner", "dead", "epoch", 7)
		e.set("other epoch", "task", "test/a", "state", "RUNNING", "runner", "r", "epoch", 8)
		e.do("SADD", e.keys.base+"limit:test/a", "lost", "other epoch")
		e.start("waits")
		require.Empty(t, claimed(e.commit("r", 10, nil)))
		promoted := e.lookAt(heldKey)
		require.ElementsMatch(t, []any{"runs", "too"}, e.do("SMEMBERS", e.keys.base+"limit:test/a"))
		require.Equal(t, []string{"waits"}, e.line())
		require.Zero(t, promoted.NextDue, "nobody waits any more")
		require.Equal(t, []string{"waits"}, claimed(e.commit("r", 10, nil)))
	})
}

// The safety net looks every few seconds as long as somebody waits.
func TestTimersOfThoseThatWait(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.startOrdered("first", "second")
		e.start("other", "more")
		result := e.commit("r", 10, nil)
		for _, timer := range []string{heldKey, "order:k"} {
			require.InDelta(t, result.Now+5000, e.timer(timer), 1000, timer)
		}
		renewal, err := e.queue.Renew(e.ctx(), "r", time.Minute)
		require.NoError(t, err)
		require.InDelta(t, result.Now+5000, renewal.NextDue, 1000, "who renews a lease is told")
		promoted := e.lookAt(heldKey)
		require.InDelta(t, result.Now+5000, promoted.NextDue, 1000)
		require.Equal(t, []string{"other"}, e.line())
		e.do("ZADD", e.keys.base+"timers", result.Now+1000, heldKey)
		require.Empty(t, claimed(e.commit("r", 10, nil)))
		require.Equal(t, result.Now+1000, e.timer(heldKey), "who waits too does not put it off")
		require.Equal(t, []string{"other", "more"}, e.zset(e.keys.base+heldKey))
	})
}

// Runners that sleep until something is due are told of what is due before that, and of nothing else.
func TestRunnersAreToldWhatIsDueFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		words := e.rdb.Subscribe(e.ctx(), e.keys.base+"control:")
		t.Cleanup(func() { _ = words.Close() })
		_, err := words.Receive(e.ctx())
		require.NoError(t, err)
		const far = int64(4_000_000_000_000)
		for _, due := range []int64{far + 2, far + 3, far + 1} {
			id := fmt.Sprint(due)
			require.NoError(t, e.startSpecial(id, "{}", withOptions("{}", fmt.Sprintf(`,"at":%d`, due))))
		}
		require.NoError(t, e.queue.Resume(e.ctx()))
		for _, want := range []string{fmt.Sprint("due ", far+2), fmt.Sprint("due ", far+1), Resume} {
			message, err := words.ReceiveMessage(e.ctx())
			require.NoError(t, err)
			require.Equal(t, want, message.Payload)
		}
	})
}

// The place in line of what is held by hand: a record that is gone, or is not in line any more, does not come forward.
func TestHeldByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("first", "gone", "later", "elsewhere", "next")
		first := e.commit("r", 10, nil).Claims[0]
		e.do("DEL", e.keys.task("gone"))
		e.set("later", "state", "SCHEDULED")
		e.set("elsewhere", "held_by", "test/b")
		for range 4 {
			e.lookAt(heldKey)
		}
		require.Equal(t, []string{"next"}, e.line())
		require.Equal(t, []string{"next"}, claimsOf(e.end(&first)))
	})
}

func claimsOf(claims []Claim) []string { return claimed(&Result{Claims: claims}) }

// A registration lowers a rate: what began under the higher one and is out of the window does not count.
func TestRateIsLowered(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"rate":10,"per_ms":60000}`)
		now, err := e.rdb.Time(e.ctx()).Result()
		require.NoError(t, err)
		for i := range 200 {
			age := 70 * time.Second
			if i >= 195 {
				age = time.Second
			}
			e.do("LPUSH", e.keys.base+rateKey, now.Add(-age).UnixMilli())
		}
		e.start("x")
		require.Equal(t, []string{"x"}, claimed(e.commit("r", 10, nil)))
	})
}

// Tasks that have expired do not begin: no rate counts them.
func TestExpiredTasksUseNoRate(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"rate":2,"per_ms":60000}`)
		for i := range 2 {
			e.set(fmt.Sprint("old", i), "task", "test/a", "options", "{}", "expires_at", "1")
			e.do("LPUSH", e.keys.wait, fmt.Sprint("old", i))
		}
		e.start("live")
		result := e.commit("r", 10, nil)
		require.Contains(t, claimed(result), "live")
	})
}
