package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/redtask/redtask"
)

func registry() *redtask.Registry {
	r := redtask.NewRegistry()
	r.Register("example/count", redtask.FuncOut(count))
	return r
}

type counting struct {
	To    int    `json:"to"`
	Every string `json:"every"`
}

// count counts, and emits each number.
func count(ctx context.Context, in counting) (int, error) {
	every, err := time.ParseDuration(in.Every)
	if err != nil || every <= 0 {
		return 0, redtask.Failf("every is %q: use a duration like 1s", in.Every)
	}
	for n := 1; n <= in.To; n++ {
		if err := redtask.FromContext(ctx).Emit("count", n); err != nil {
			return 0, err
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return in.To, nil
}

type service struct {
	client  *redtask.Client
	streams context.Context // its end ends the streams of events
}

func routes(streams context.Context, client *redtask.Client) http.Handler {
	s := &service{client: client, streams: streams}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tasks/{app}/{name}", s.start)
	mux.HandleFunc("GET /tasks/{id}", s.show)
	mux.HandleFunc("DELETE /tasks/{id}", s.stop)
	mux.HandleFunc("GET /tasks/{id}/events", s.events)
	return mux
}

// start starts a task with the request's body as its data.
func (s *service) start(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, redtask.DefaultMaxData))
	if err != nil {
		refuse(w, err)
		return
	}
	var data any
	if len(body) > 0 {
		data = json.RawMessage(body)
	}
	id, err := s.client.Start(r.Context(), r.PathValue("app")+"/"+r.PathValue("name"), data)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusAccepted, map[string]string{"id": id})
}

func (s *service) show(w http.ResponseWriter, r *http.Request) {
	record, err := s.client.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, record)
}

func (s *service) stop(w http.ResponseWriter, r *http.Request) {
	if err := s.client.Stop(r.Context(), r.PathValue("id")); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// events streams a task's events as server-sent events, until its last one.
func (s *service) events(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	id := r.PathValue("id")
	if _, err := s.client.Get(ctx, id); err != nil {
		refuse(w, err)
		return
	}
	events, err := s.client.Watch(ctx, id)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	stream := http.NewResponseController(w)
	if stream.Flush() != nil {
		return
	}
	for event := range events {
		data, err := json.Marshal(event.Data) // on one line, as the format wants it
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event.Name, data); err != nil || stream.Flush() != nil {
			return
		}
	}
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the client went away
}

// refuse says why, with the status that fits.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, redtask.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, redtask.ErrInvalid):
		status = http.StatusBadRequest
	case errors.Is(err, redtask.ErrFinal), errors.Is(err, redtask.ErrExists):
		status = http.StatusConflict
	}
	http.Error(w, err.Error(), status)
}
