package redtask

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	factory := Func(func(context.Context, any) error { return nil })
	for name, register := range map[string]func(*Registry){
		"empty":         func(r *Registry) { r.Register("", factory) },
		"no namespace":  func(r *Registry) { r.Register("sync", factory) },
		"empty part":    func(r *Registry) { r.Register("app//sync", factory) },
		"space":         func(r *Registry) { r.Register("app/a b", factory) },
		"newline":       func(r *Registry) { r.Register("app/a\n", factory) },
		"long":          func(r *Registry) { r.Register("app/"+strings.Repeat("x", 125), factory) },
		"reserved":      func(r *Registry) { r.Register("redtask/mine", factory) },
		"no factory":    func(r *Registry) { r.Register("app/nil", nil) },
		"twice":         func(r *Registry) { r.Register("app/twice", factory); r.Register("app/twice", factory) },
		"negative time": func(r *Registry) { r.RegisterWith("app/t", factory, TaskOptions{Timeout: -1}) },
	} {
		require.Panics(t, func() { register(NewRegistry()) }, name)
	}
	r := NewRegistry()
	r.Register("app/b", factory)
	r.Register("app/a.b-c_d/2", factory)
	require.Equal(t, []string{"app/a.b-c_d/2", "app/b"}, r.Names())
}

func TestNearest(t *testing.T) {
	t.Parallel()
	names := []string{"app/sync", "app/send_mail", "other/x"}
	for wrong, right := range map[string]string{
		"app/snyc": "app/sync", "sync": "app/sync", "app/sendmail": "app/send_mail", "zzz/qqqqqqq": "", "App/sync": "app/sync", "app/sync": "app/sync",
		"other/sync": "app/sync", "app/loop": "", "": "", "app/": "",
	} {
		require.Equal(t, right, nearest(wrong, names), wrong)
	}
	require.Equal(t, 3, distance("kitten", "sitting"))
	require.Equal(t, 4, distance("", "four"))
}

func TestRunnerOptionsReportAllFaults(t *testing.T) {
	t.Parallel()
	e := onRedis(t)
	_, err := NewRunner(e.rdb, NewRegistry(), RunnerOptions{
		Prefix: "a{b}", Queues: map[string]int{"q{": 1, "zero": 0}, Lease: time.Millisecond, Grace: -5, StuckAfter: -1, EventBuffer: -1,
		Locals: []Local{{Name: "bad"}, {Name: "a/b", New: Func(func(context.Context, any) error { return nil })}, {Name: "a/b", New: nil}},
	})
	require.ErrorIs(t, err, ErrInvalid)
	for _, part := range []string{"prefix", `"q{"`, `"zero"`, "Lease 1ms", "Grace", "StuckAfter", "EventBuffer", `"bad"`, "listed twice", "New is nil"} {
		require.ErrorContains(t, err, part)
	}
	for want, options := range map[string]RunnerOptions{
		"redtask: invalid input: Lease 15ns: use at least 1.5s; is its unit missing?":                                                  {Lease: 15},
		"redtask: invalid input: RenewInterval 5ns: use at least 10ms; is its unit missing?":                                           {RenewInterval: 5},
		"redtask: invalid input: SafetyMargin -1s is negative":                                                                         {SafetyMargin: -time.Second},
		"redtask: invalid input: RenewInterval 20s and SafetyMargin 5s together must be less than Lease 15s":                           {RenewInterval: 20 * time.Second},
		"redtask: invalid input: queue \"a\": 0 tasks at once: use at least 1\nredtask: invalid input: EventBuffer -1: use at least 1": {Queues: map[string]int{"a": 0}, EventBuffer: -1},
	} {
		_, err = NewRunner(e.rdb, NewRegistry(), options)
		require.EqualError(t, err, want)
	}
	_, err = NewRunner(nil, nil, RunnerOptions{})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = NewClient(e.rdb, ClientOptions{Prefix: "{", Queue: "a b", MaxData: -3})
	require.ErrorIs(t, err, ErrInvalid)
	for _, part := range []string{`prefix "{"`, `queue "a b"`, "MaxData -3"} {
		require.ErrorContains(t, err, part)
	}
	_, err = NewClient(nil, ClientOptions{})
	require.ErrorIs(t, err, ErrInvalid)
}

// A call that blocks in Redis ends before the lease does, or the runner says that nobody may take over its inbox before.
func TestNoBlockedCallOutlivesASilence(t *testing.T) {
	t.Parallel()
	for _, o := range []RunnerOptions{
		{}, {Lease: time.Minute}, {Lease: minLease}, {Lease: minLease, RenewInterval: 10 * time.Millisecond, SafetyMargin: 10 * time.Millisecond},
		{Lease: 8 * time.Second, RenewInterval: 7 * time.Second, SafetyMargin: 500 * time.Millisecond},
		{Lease: 15 * time.Second, RenewInterval: 11 * time.Second, SafetyMargin: time.Second},
		{Lease: time.Hour, RenewInterval: time.Second, SafetyMargin: time.Second},
	} {
		o = o.withDefaults()
		require.NoError(t, o.validate())
		require.GreaterOrEqual(t, o.silence(), o.claimsFor()+o.blocksFor())
		require.GreaterOrEqual(t, o.silence(), o.Lease-o.SafetyMargin)
		require.Less(t, o.claimsFor(), o.Lease-o.SafetyMargin)
		require.Greater(t, o.claimsFor(), o.RenewInterval)
		require.Zero(t, o.blocksFor()%time.Second)
		require.Positive(t, o.blocksFor())
	}
	standard := RunnerOptions{}.withDefaults()
	require.Equal(t, 5*time.Second, standard.blocksFor())
	require.Less(t, standard.silence(), standard.Lease, "the lease decides")
}

func TestRunnerRefusesClientsThatItCannotCopy(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": "127.0.0.1:1"}})
	t.Cleanup(func() { require.NoError(t, ring.Close()) })
	_, err := NewRunner(ring, NewRegistry(), RunnerOptions{})
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "*redis.Ring")
}

func TestTypedData(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		greet := FuncOut(func(_ context.Context, in greeting) (string, error) { return in.Text, nil })
		registry.Register("test/loose", greet)
		registry.RegisterWith("test/strict", greet, TaskOptions{Strict: true})
		registry.Register("test/badout", FuncOut(func(context.Context, any) (any, error) { return make(chan int), nil }))
		e.runner(t, registry, nil)
		client := e.client(t)
		for _, c := range []struct {
			task, data string
			state      State
			says       string
		}{
			{"test/loose", `{"text":"a","more":1}`, StateEnded, `"a"`},
			{"test/loose", `null`, StateEnded, `""`},
			{"test/loose", `[1]`, StateException, "decode data"},
			{"test/loose", `"x"`, StateException, "decode data"},
			{"test/loose", `{"text":5}`, StateException, "text"},
			{"test/strict", `{"text":"a"}`, StateEnded, `"a"`},
			{"test/strict", `{"text":"a","more":1}`, StateException, "more"},
			{"test/badout", `null`, StateException, "output"},
		} {
			record := wait(t, client, start(t, client, c.task, json.RawMessage(c.data)))
			require.Equal(t, c.state, record.State, c.data)
			require.Contains(t, string(record.Output)+record.Error, c.says, c.data)
		}
		// By hand, data may be anything.
		for id, data := range map[string]string{"hand1": "{", "hand2": "", "hand3": "\xff", "hand4": "{} {}"} {
			e.rdb.HSet(t.Context(), e.key("task:"+id), "task", "test/loose", "data", data)
			e.rdb.LPush(t.Context(), e.key("wait"), id)
			record := wait(t, client, id)
			want := StateException
			if data == "" {
				want = StateEnded // no data is null
			}
			require.Equal(t, want, record.State, data)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"text":"a"}`, `null`, `[]`, `{"text":1}`, `{}{}`, "", "\x00", `{"text":"\ud800"}`} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, strict bool) {
		var in greeting
		if err := decode(data, &in, strict); err == nil {
			require.True(t, json.Valid(data), "only JSON is taken: %q", data)
		}
	})
}

func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"", "plain", `"`, `\`, "\x00\n", "ünï", "\xff", "\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var back string
		require.NoError(t, json.Unmarshal([]byte(quote(text)), &back))
		require.Equal(t, string([]rune(text)), back, "each broken byte becomes one U+FFFD")
	})
}

func FuzzNames(f *testing.F) {
	for _, seed := range []string{"", "app/x", "a/b/c", "/", "a/", "redtask/x", "a b/c", "a/\x00", strings.Repeat("a/", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) == nil {
			require.LessOrEqual(t, len(name), maxName)
			require.NotContains(t, name, " ")
			require.Contains(t, name, "/")
		}
		if checkID(name) == nil {
			require.NotEmpty(t, name)
			require.NotContains(t, name, "\x00")
		}
		if checkPart("queue", name) == nil {
			require.NotContains(t, name, "{")
		}
	})
}
