package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/redtasktest"
)

// onBoth runs a test of the handlers on miniredis and on real Redis.
func onBoth(t *testing.T, test func(t *testing.T, h *redtasktest.Harness, url string)) {
	t.Helper()
	t.Parallel()
	for name, redisURL := range map[string]func(t *testing.T) string{
		"miniredis": func(*testing.T) string { return redtasktest.Miniredis },
		"redis":     func(t *testing.T) string { return "redis://" + redistest.Start(t).Addr },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := redtasktest.NewWith(t, registry(), redtasktest.Options{RedisURL: redisURL(t)})
			server := httptest.NewServer(routes(t.Context(), h.Client))
			t.Cleanup(server.Close)
			test(t, h, server.URL)
		})
	}
}

func do(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

func start(t *testing.T, url, body string) string {
	t.Helper()
	status, text := do(t, "POST", url+"/tasks/example/count", body)
	require.Equal(t, http.StatusAccepted, status, text)
	var started struct{ ID string }
	require.NoError(t, json.Unmarshal([]byte(text), &started))
	return started.ID
}

// stream opens the stream of a task's events.
func stream(t *testing.T, url, id string) *bufio.Scanner {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", url+"/tasks/"+id+"/events", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	return bufio.NewScanner(response.Body)
}

// next reads one event: its name and its data; names are "" at the end of the stream.
func next(t *testing.T, lines *bufio.Scanner) (name, data string) {
	t.Helper()
	for lines.Scan() && lines.Text() != "" {
		key, value, found := strings.Cut(lines.Text(), ": ")
		require.True(t, found, lines.Text())
		switch key {
		case "event":
			name = value
		case "data":
			data = value
		}
	}
	return name, data
}

func TestService(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *redtasktest.Harness, url string) {
		id := start(t, url, `{"to":1000000,"every":"20ms"}`)
		events := stream(t, url, id)
		last := 0
		for counts := 0; counts < 3; {
			name, data := next(t, events)
			require.Contains(t, []string{redtask.EventRunning, "count"}, name)
			if name == "count" {
				n, err := strconv.Atoi(data)
				require.NoError(t, err)
				require.Greater(t, n, last)
				last, counts = n, counts+1
			}
		}
		require.Equal(t, redtask.StateRunning, show(t, url, id).State)

		status, text := do(t, "DELETE", url+"/tasks/"+id, "")
		require.Equal(t, http.StatusNoContent, status, text)
		end := ""
		for name, _ := next(t, events); name != ""; name, _ = next(t, events) { // the stream ends with the task
			end = name
		}
		require.NoError(t, events.Err())
		require.Equal(t, redtask.EventStopped, end)
		record := show(t, url, id)
		require.Equal(t, redtask.StateStopped, record.State)
		require.JSONEq(t, `{"to":1000000,"every":"20ms"}`, string(record.Data))
	})
}

func show(t *testing.T, url, id string) redtask.Record {
	t.Helper()
	status, text := do(t, "GET", url+"/tasks/"+id, "")
	require.Equal(t, http.StatusOK, status, text)
	var record redtask.Record
	require.NoError(t, json.Unmarshal([]byte(text), &record))
	return record
}

// What a task's data says wrong is told by its record: the request was well-formed.
func TestEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, h *redtasktest.Harness, url string) {
		for _, c := range []struct {
			body   string
			state  redtask.State
			output string
			reason string
		}{
			{`{"to":2,"every":"1ms"}`, redtask.StateEnded, "2", ""},
			{`{"to":2,"every":"0s"}`, redtask.StateError, "", `every is "0s": use a duration like 1s`},
			{"", redtask.StateError, "", `every is "": use a duration like 1s`},
			{`[]`, redtask.StateException, "", "cannot unmarshal array"},
		} {
			id := start(t, url, c.body)
			h.Collect(id).RequireState(c.state)
			record := show(t, url, id)
			require.Equal(t, c.output, string(record.Output), c.body)
			require.Contains(t, record.Error, c.reason, c.body)
			name, _ := next(t, stream(t, url, id)) // of a final task: only its end
			require.Equal(t, strings.ToLower(string(c.state)), name)
		}
	})
}

func TestRefusals(t *testing.T) {
	onBoth(t, func(t *testing.T, h *redtasktest.Harness, url string) {
		final := start(t, url, `{"to":0,"every":"1s"}`)
		h.Collect(final).RequireState(redtask.StateEnded)
		for _, c := range []struct {
			method, path, body string
			status             int
		}{
			{"GET", "/tasks/nothing", "", http.StatusNotFound},
			{"GET", "/tasks/nothing/events", "", http.StatusNotFound},
			{"DELETE", "/tasks/nothing", "", http.StatusNotFound},
			{"DELETE", "/tasks/" + final, "", http.StatusConflict},
			{"POST", "/tasks/example/count", "{", http.StatusBadRequest},
			{"POST", "/tasks/bad%20name/x", "{}", http.StatusBadRequest},
			{"POST", "/tasks/example/count", strings.Repeat(" ", redtask.DefaultMaxData+1), http.StatusRequestEntityTooLarge},
			{"PUT", "/tasks/" + final, "", http.StatusMethodNotAllowed},
		} {
			status, text := do(t, c.method, url+c.path, c.body)
			require.Equal(t, c.status, status, "%s %s: %s", c.method, c.path, text)
			require.NotEmpty(t, text)
		}
	})
}
