package store

// keys are the names of one queue's keys. The braces are literal: Redis Cluster hashes what stands between them, so all keys of a
// queue share one slot, and each script may touch any of them.
type keys struct {
	base      string // P:{Q}:
	wait      string
	scheduled string
	paused    string
	cron      string
	runners   string
	epoch     string
	counters  string
	cleaner   string
	kept      string
	room      string // never exists; see Queue.run
}

func newKeys(prefix, queue string) keys {
	base := prefix + ":{" + queue + "}:"
	return keys{
		base:      base,
		wait:      base + "wait",
		scheduled: base + "scheduled",
		paused:    base + "paused",
		cron:      base + "cron",
		runners:   base + "runners",
		epoch:     base + "epoch",
		counters:  base + "counters",
		cleaner:   base + "cleaner",
		kept:      base + "final:kept",
		room:      base + "room",
	}
}

func (k keys) entry(name string) string         { return k.base + "cron:" + name }
func (k keys) task(id string) string            { return k.base + "task:" + id }
func (k keys) log(id string) string             { return k.base + "log:" + id }
func (k keys) events(id string) string          { return k.base + "events:" + id }
func (k keys) control(id string) string         { return k.base + "control:" + id }
func (k keys) final(state string) string        { return k.base + "final:" + state }
func (k keys) inbox(runner string) string       { return k.base + "inbox:" + runner }
func (k keys) runner(runner string) string      { return k.base + "runner:" + runner }
func (k keys) running(runner string) string     { return k.base + "running:" + runner }
func (k keys) controlHash(runner string) string { return k.base + "control:" + runner }
