package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/redtask/redtask/internal/redistest"
)

// wire is a TCP proxy in front of Redis.
type wire struct {
	t     *testing.T
	addr  string
	proxy *toxiproxy.Proxy
}

func newWire(t *testing.T, upstream string) *wire {
	zerolog.SetGlobalLevel(zerolog.Disabled) // one of its toxics logs past the logger it gets
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	w := &wire{t: t}
	err := redistest.OnFreePort(func(port string) error {
		w.addr = net.JoinHostPort("127.0.0.1", port)
		w.proxy = toxiproxy.NewProxy(server, strings.ReplaceAll(t.Name(), "/", "-"), w.addr, upstream)
		return w.proxy.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWiresWhileProcessesStart begins wires while each fork holds, until its exec, a copy of every listener that there was.
func TestWiresWhileProcessesStart(t *testing.T) {
	enough, cancel := context.WithCancel(context.Background())
	var starting sync.WaitGroup
	defer starting.Wait()
	defer cancel()
	for range 4 {
		starting.Go(func() {
			for enough.Err() == nil {
				if err := exec.Command("true").Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2000 {
		newWire(t, "127.0.0.1:1").close()
	}
}

// toxic is what toxiproxy does to what passes: upstream is what the client sends.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Toxicity   float64        `json:"toxicity"` // share of the connections
	Attributes map[string]any `json:"attributes"`
}

// poison makes the wire bad in these ways until cure.
func (w *wire) poison(toxics ...toxic) {
	for _, t := range toxics {
		t.Name = t.Type + "-" + t.Stream
		if t.Toxicity == 0 {
			t.Toxicity = 1
		}
		text, err := json.Marshal(t)
		if err == nil {
			_, err = w.proxy.Toxics.AddToxicJson(bytes.NewReader(text))
		}
		if err != nil {
			w.t.Errorf("toxic %+v: %v", t, err)
		}
	}
}

func (w *wire) cure() { w.proxy.Toxics.ResetToxics(context.Background()) }

func (w *wire) close() { w.proxy.Stop() }

// cut resets all connections of a wire.
func (w *world) cut(wire *wire) {
	wire.proxy.Stop()
	// A process that is just being started holds a copy of the closed listener from its fork to its exec: until then the port is taken.
	w.insist("listen again at a cut wire", func(context.Context) error { return wire.proxy.Start() })
}
