package chaos

import "time"

// on makes some wire bad for a while.
func on(least, most time.Duration, toxics func(w *world) []toxic) func(*world) {
	return func(w *world) {
		wire := w.wires[w.intN(len(w.wires))]
		wire.poison(toxics(w)...)
		w.wait(w.between(least, most))
		wire.cure()
		w.wait(w.between(200*time.Millisecond, time.Second))
	}
}

func attributes(pairs ...any) map[string]any {
	found := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		found[pairs[i].(string)] = pairs[i+1]
	}
	return found
}

func wireFaults() []fault {
	long := lease + 2*time.Second
	stall := func(stream string, share float64) toxic {
		return toxic{Type: "timeout", Stream: stream, Toxicity: share, Attributes: attributes("timeout", 0)}
	}
	return []fault{
		{name: "latency", what: "each packet late by up to 400 ms, with jitter", part: inWires, inject: on(time.Second, long, func(w *world) []toxic {
			late := 20 + w.intN(380)
			return []toxic{
				{Type: "latency", Stream: "upstream", Attributes: attributes("latency", late/2, "jitter", late/2)},
				{Type: "latency", Stream: "downstream", Attributes: attributes("latency", late/2, "jitter", late/2)},
			}
		})},
		{name: "reset", what: "connections reset after some packets", part: inWires, inject: on(time.Second, 3*time.Second, func(w *world) []toxic {
			return []toxic{{Type: "reset_peer", Stream: []string{"upstream", "downstream"}[w.intN(2)], Toxicity: 0.7, Attributes: attributes("timeout", w.intN(300))}}
		})},
		{name: "reply-lost", what: "connections cut in the middle of an answer: the call has run", part: inWires, inject: on(time.Second, 3*time.Second, func(w *world) []toxic {
			return []toxic{{Type: "limit_data", Stream: "downstream", Attributes: attributes("bytes", 1+w.intN(4000))}}
		})},
		{name: "half-open", what: "connections that say nothing any more, new ones work", part: inWires, inject: on(500*time.Millisecond, long, func(*world) []toxic {
			return []toxic{stall("downstream", 0.5), stall("upstream", 0.5)}
		})},
		{name: "black-hole-up", what: "nothing reaches Redis", part: inWires, inject: on(500*time.Millisecond, long, func(*world) []toxic {
			return []toxic{stall("upstream", 1)}
		})},
		{name: "black-hole-down", what: "no answer of Redis arrives: what was sent has run", part: inWires, inject: on(500*time.Millisecond, long, func(*world) []toxic {
			return []toxic{stall("downstream", 1)}
		})},
		{name: "bandwidth", what: "a few KiB/s", part: inWires, inject: on(time.Second, long, func(w *world) []toxic {
			rate := 2 + w.intN(10)
			return []toxic{
				{Type: "bandwidth", Stream: "upstream", Attributes: attributes("rate", rate)},
				{Type: "bandwidth", Stream: "downstream", Attributes: attributes("rate", rate)},
			}
		})},
		{name: "cut", what: "all connections of a worker cut, none for a moment", part: inWires, inject: func(w *world) {
			w.cut(w.wires[w.intN(len(w.wires))])
			w.wait(w.between(100*time.Millisecond, 700*time.Millisecond))
		}},
	}
}
