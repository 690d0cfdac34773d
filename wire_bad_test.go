package redtask

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// badTasks are what producers get wrong. One that can be written to ends in EXCEPTION with a message; one that cannot is dropped and
// counted.
var badTasks = map[string]struct {
	fields  []string // of its hash; none: there is no hash
	other   []string // a command that makes the key something else
	twice   bool     // pushed once more
	message string   // what the EXCEPTION says; "" if it is dropped
	state   string   // what is left of one that was dropped
}{
	"no hash":                    {},
	"hash without task":          {fields: []string{"data", "{}"}, message: "`task`"},
	"a string":                   {other: []string{"SET", "{}"}},
	"a list":                     {other: []string{"RPUSH", "app/hello"}},
	"a set":                      {other: []string{"SADD", "app/hello"}},
	"pushed twice":               {fields: []string{"task", "app/hello", "data", "{}"}, twice: true, state: "ENDED"},
	"stopped before":             {fields: []string{"task", "app/hello", "state", "STOPPED"}, state: "STOPPED"},
	"ended before":               {fields: []string{"task", "app/hello", "state", "ENDED"}, state: "ENDED"},
	"said to run":                {fields: []string{"task", "app/hello", "state", "RUNNING"}, state: "RUNNING"},
	"unknown state":              {fields: []string{"task", "app/hello", "state", "wait"}, state: "wait"},
	"data is no JSON":            {fields: []string{"task", "app/hello", "data", "{text:hi}"}, message: "not JSON"},
	"data is cut JSON":           {fields: []string{"task", "app/hello", "data", `{"text":"h`}, message: "not JSON"},
	"data is two values":         {fields: []string{"task", "app/hello", "data", `{} {}`}, message: "not JSON"},
	"data is binary":             {fields: []string{"task", "app/hello", "data", "\x00\xff\xfe{\r\n"}, message: "not JSON"},
	"data is a list":             {fields: []string{"task", "app/hello", "data", `[1]`}, message: "array"},
	"data is a string":           {fields: []string{"task", "app/hello", "data", `"hi"`}, message: "string"},
	"data has a field of a type": {fields: []string{"task", "app/hello", "data", `{"text":5}`}, message: "number"},
	"data is too big":            {fields: []string{"task", "app/hello", "data", `"` + strings.Repeat("x", DefaultMaxData) + `"`}, message: "bytes"},
	"unknown name":               {fields: []string{"task", "app/helo", "data", `{}`}, message: `did you mean "app/hello"?`},
	"empty name":                 {fields: []string{"task", "", "data", `{}`}, message: `named ""`},
	"name is binary":             {fields: []string{"task", "\x00\xff\r\n\"\\", "data", `{}`}, message: "no runner"},
	"name is long":               {fields: []string{"task", strings.Repeat("x", 100_000), "data", `{}`}, message: "no runner"},
}

func TestWireBadTasks(t *testing.T) {
	for name, c := range badTasks {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				wireRunner(t, e)
				w, events := e.wire(t), e.wire(t).subscribe("before", "after", "later")
				bad := e.wire(t).subscribe("bad")
				for _, id := range []string{"before", "after", "later"} {
					w.task(id, "task", "app/hello", "data", `{"text":"fine"}`)
				}
				if c.fields != nil {
					w.task("bad", c.fields...)
				}
				if c.other != nil {
					w.do(c.other[0], w.key("task:bad"), c.other[1])
				}
				if c.twice {
					w.run("before", "bad", "bad", "after")
				} else {
					w.run("before", "bad", "after")
				}
				events.untilEnded("before", "after")
				if c.message != "" {
					requireException(t, w, bad.until("bad", "exception"), c.message)
				} else {
					eventually(t, "it is counted", func() bool {
						return e.rdb.HGet(context.Background(), e.key("counters"), "dropped").Val() == "1"
					})
					require.True(t, e.log.has("dropped an ID from the line"), "and told")
					if c.twice {
						require.EqualValues(t, 1, bad.until("bad", "running").Seq)
						bad.until("bad", "ended") // and it ran once: the second was counted
					}
					if c.state != "" {
						require.Equal(t, c.state, w.field("bad", "state"))
					}
				}
				w.run("later")
				events.untilEnded("later") // the runner goes on
				require.Zero(t, w.do("LLEN", w.key("wait")))
			})
		})
	}
}

func requireException(t *testing.T, w *wire, event Event, message string) {
	t.Helper()
	var data struct{ Error string }
	require.NoError(t, event.Decode(&data))
	require.Contains(t, data.Error, message)
	require.Less(t, len(data.Error), 2000)
	require.Equal(t, "EXCEPTION", w.field("bad", "state"))
	require.Equal(t, string([]rune(w.field("bad", "error"))), data.Error, "broken UTF-8 aside")
	require.NotEmpty(t, w.field("bad", "ended_at"))
	require.NotNil(t, w.do("ZSCORE", w.key("final:EXCEPTION"), "bad"), "it is listed")
}

// What looks odd and is not wrong runs.
func TestWireOddTasks(t *testing.T) {
	cases := map[string]struct {
		id     string
		fields []string
	}{
		"no data":        {"x", nil},
		"data is null":   {"x", []string{"data", "null"}},
		"unknown fields": {"x", []string{"data", `{"more":[1]}`, "color", "red"}},
		"attempt is odd": {"x", []string{"attempt", "many"}},
		"ID with quotes": {`a"b\c:d{e} *`, nil},
		"longest ID":     {strings.Repeat("x", MaxID), nil},
		"JSON as ID":     {`{"event":"stopped"}`, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				wireRunner(t, e)
				w, events := e.wire(t), e.wire(t).subscribe(c.id)
				w.task(c.id, append([]string{"task", "app/hello"}, c.fields...)...)
				w.run(c.id)
				for _, kind := range []string{"running", "text", "ended"} {
					event := events.event()
					require.Equal(t, kind, event.Name)
					require.Equal(t, c.id, event.ID)
				}
				require.Equal(t, "ENDED", w.field(c.id, "state"))
			})
		})
	}
}

// An ID that clients refuse ends in EXCEPTION when someone puts it in line by hand.
func TestWireBadIDs(t *testing.T) {
	cases := map[string]struct{ id, message string }{
		"empty":      {"", "empty"},
		"binary":     {"\x00\xff", "control characters"},
		"line break": {"a\r\nb", "control characters"},
		"too long":   {strings.Repeat("x", MaxID+1), "at most 256"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				wireRunner(t, e)
				w, events, fine := e.wire(t), e.wire(t).subscribe(c.id), e.wire(t).subscribe("fine")
				w.task(c.id, "task", "app/hello")
				w.task("fine", "task", "app/hello")
				w.run("fine", c.id)
				require.Equal(t, "running", events.event().Name)
				last := events.event()
				require.Equal(t, "exception", last.Name)
				require.Contains(t, string(last.Data), c.message)
				require.Equal(t, "EXCEPTION", w.field(c.id, "state"))
				require.Contains(t, w.field(c.id, "error"), c.message)
				fine.untilEnded("fine")
			})
		})
	}
}

// Whatever is published on a control channel: an unknown word is answered and changes nothing.
func TestWireBadControl(t *testing.T) {
	words := map[string]string{
		"unknown": "selfdestruct", "empty": "", "upper case": "STOP", "with a newline": "stop\r\n", "two words": "stop now",
		"huge": strings.Repeat("stop", 1<<18), "binary": "\x00\xff\xfe\r\n\"\\", "JSON": `{"word":"stop"}`,
	}
	for name, word := range words {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				v := wireRunner(t, e)
				w, events := e.wire(t), e.wire(t).subscribe("42")
				w.task("42", "task", "app/versions", "data", `"one"`)
				w.run("42")
				events.until("42", "running")
				require.Equal(t, "one", receive(t, "start", v.starts))
				for _, id := range []string{"nobody", "", "\x00", strings.Repeat("x", 10_000)} {
					w.tell(id, word)
					w.tell(id, "stop")
				}
				w.tell("42", word)
				answer := events.event()
				require.Equal(t, "control_failed", answer.Name)
				require.Contains(t, string(answer.Data), "use stop, reload or restart")
				require.Less(t, len(answer.Data), 1000, "a huge word makes no huge event")
				require.Equal(t, "RUNNING", w.field("42", "state"))
				require.Empty(t, v.ends)
				require.Zero(t, w.do("EXISTS", w.key("task:nobody")), "nothing comes of it")
				w.tell("42", "stop")
				require.EqualValues(t, 3, events.until("42", "stopped").Seq)
			})
		})
	}
}

// A word for a task that is over, or not yet running, does nothing.
func TestWireControlOfAFinalTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v := wireRunner(t, e)
		w, events, others := e.wire(t), e.wire(t).subscribe("42"), e.wire(t).subscribe("other")
		w.task("42", "task", "app/hello", "data", "{}")
		w.task("other", "task", "app/versions", "data", `"one"`)
		w.run("42", "other")
		ended := events.until("42", "ended")
		require.Equal(t, "one", receive(t, "start", v.starts))
		for _, word := range []string{"stop", "reload", "restart", "junk"} {
			w.tell("42", word)
		}
		w.tell("other", "junk") // a word has no epoch: it is for the run that is there when the runner hears it
		others.until("other", "control_failed")
		w.task("42", "state", "WAIT")
		w.run("42")
		require.Greater(t, events.until("42", "ended").Epoch, ended.Epoch, "it is not stopped by what was said before")
	})
}
