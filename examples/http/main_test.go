package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/redtasktest"
)

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	h := redtasktest.New(t, registry())
	server := httptest.NewServer(routes(h.Client))
	t.Cleanup(server.Close)
	return server
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

func TestService(t *testing.T) {
	t.Parallel()
	server := serve(t)
	id := start(t, server.URL, `{"to":1000000,"every":"20ms"}`)
	request, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/tasks/"+id+"/events", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	lines := bufio.NewScanner(response.Body)
	counts := 0
	for counts < 3 && lines.Scan() {
		if lines.Text() == "event: count" {
			counts++
		}
	}
	require.Equal(t, 3, counts)
	status, _ := do(t, "DELETE", server.URL+"/tasks/"+id, "")
	require.Equal(t, http.StatusNoContent, status)
	last := ""
	for lines.Scan() { // the stream ends with the task
		if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			last = event
		}
	}
	require.NoError(t, lines.Err())
	require.Equal(t, redtask.EventStopped, last)
	status, text := do(t, "GET", server.URL+"/tasks/"+id, "")
	require.Equal(t, http.StatusOK, status)
	var record redtask.Record
	require.NoError(t, json.Unmarshal([]byte(text), &record))
	require.Equal(t, redtask.StateStopped, record.State)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	server := serve(t)
	final := start(t, server.URL, `{"to":0,"every":"1s"}`)
	require.Eventually(t, func() bool {
		_, text := do(t, "GET", server.URL+"/tasks/"+final, "")
		return strings.Contains(text, `"ENDED"`)
	}, 30*time.Second, 5*time.Millisecond)
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
	} {
		status, text := do(t, c.method, server.URL+c.path, c.body)
		require.Equal(t, c.status, status, "%s %s: %s", c.method, c.path, text)
	}
}

// SIGTERM ends the service in order: the running task is back in line, with no attempt counted.
func TestGracefulShutdown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	binary := filepath.Join(t.TempDir(), "http")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	cmd := exec.Command(binary, "-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+server.Addr)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(stderr)
	require.True(t, lines.Scan())
	url, found := strings.CutPrefix(lines.Text(), "listening on ")
	require.True(t, found, lines.Text())
	var rest bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines.Scan() {
			rest.WriteString(lines.Text() + "\n")
		}
	}()

	id := start(t, url, `{"to":1000000,"every":"20ms"}`)
	task := "redtask:{default}:task:" + id
	rdb := server.Client(t)
	require.Eventually(t, func() bool { return rdb.HGet(t.Context(), task, "state").Val() == "RUNNING" }, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	<-done
	require.NoError(t, cmd.Wait(), rest.String())
	require.Equal(t, "0", rdb.HGet(t.Context(), task, "attempt").Val())
	require.Equal(t, []string{id}, rdb.LRange(t.Context(), "redtask:{default}:wait", 0, -1).Val())
}
