package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const measuredCSV = `workload,parameter,system,repeat,metric,value,unit
drain,concurrency=10,limit-script,1,throughput,70100,tasks/s
drain,concurrency=10,asynq,1,throughput,7010,tasks/s
drain,concurrency=10,redtask,1,throughput,61000,tasks/s
drain,concurrency=10,redtask,2,throughput,61234,tasks/s
drain,concurrency=10,redtask,3,throughput,69000,tasks/s
drain,100,redtask,1,Redis CPU,12.1,us/task
drain,100,redtask,1,process CPU,17.3,us/task
start,producers=32,redtask,1,throughput,120000,tasks/s
bulk,1000,redtask,1,throughput,210000,tasks/s
pick-up,1,asynq,1,p50,497,ms
pick-up,1,redtask,1,p50,0.42,ms
pick-up,1,redtask,1,p99,0.8,ms
scale-payload,bytes=1024,redtask,1,throughput,71000,tasks/s
scale-payload,bytes=40,redtask,1,throughput,88000,tasks/s
idle,,redtask,1,commands,0.9,commands/s
`

// drawFrom writes the charts of a CSV file and returns their texts, by file.
func drawFrom(t *testing.T, content string) (map[string][]string, error) {
	t.Helper()
	file, dir := filepath.Join(t.TempDir(), "measured.csv"), t.TempDir()
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	if err := drawCharts(file, dir); err != nil {
		return nil, err
	}
	found := map[string][]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		svg, err := os.Open(filepath.Join(dir, entry.Name()))
		require.NoError(t, err)
		found[entry.Name()] = texts(t, svg)
		require.NoError(t, svg.Close())
	}
	return found, nil
}

// texts are what a reader of an SVG file sees written.
func texts(t *testing.T, svg io.Reader) []string {
	t.Helper()
	var found []string
	for decoder := xml.NewDecoder(svg); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "text" {
			var text string
			require.NoError(t, decoder.DecodeElement(&text, &element))
			found = append(found, text)
		}
	}
}

func TestDrawCharts(t *testing.T) {
	t.Parallel()
	found, err := drawFrom(t, measuredCSV)
	require.NoError(t, err)
	require.Len(t, found, 5)
	require.Subset(t, found["drain.svg"], []string{"10 tasks at once", "redtask", "61.2k", "asynq", "7,010", "limit: no safety", "70.1k"})
	require.Subset(t, found["start.svg"], []string{"producers: 32", "120k", "one producer, 1000 a call", "210k"})
	require.Subset(t, found["pickup.svg"], []string{"0.420", "497", "0.800", "ms, logarithmic; bar: median, whisker: least to most"})
	require.Subset(t, found["cpu.svg"], []string{"in Redis, to start and to drain it", "12.1", "17.3", "µs/task; bar: median, whisker: least to most"})
	require.Subset(t, found["scale-payload.svg"], []string{"40 B", "88.0k", "1 KiB", "71.0k"})
}

func TestDrawChartsOrder(t *testing.T) {
	t.Parallel()
	found, err := drawFrom(t, measuredCSV)
	require.NoError(t, err)
	var names []string
	for _, text := range found["drain.svg"] {
		switch text {
		case "redtask", "asynq", "limit: no safety":
			names = append(names, text)
		}
	}
	require.Equal(t, []string{"redtask", "asynq", "limit: no safety"}, names)
}

func TestDrawChartsRefuses(t *testing.T) {
	t.Parallel()
	const header = "workload,parameter,system,repeat,metric,value,unit\n"
	for _, c := range []struct{ name, content, want string }{
		{"no header", "", "the first line must be workload,parameter"},
		{"other columns", "a,b\n", "the first line must be"},
		{"a value that is no number", header + "drain,,redtask,1,throughput,fast,tasks/s\n", `row 2: value "fast"`},
		{"a size that is no number", header + "scale-queues,many,redtask,1,throughput,1,tasks/s\n", `parameter "many": want a number`},
		{"a short row", header + "drain\n", "wrong number of fields"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := drawFrom(t, c.content)
			require.ErrorContains(t, err, c.want)
		})
	}
}
