package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// errNodeEnded is the error of a call to a Node process that has ended, or ends before it answers.
var errNodeEnded = errors.New("the Node process has ended; its standard error says why")

// nodeProcess is a Node process that takes calls, and has tasks handled, as JSON lines over its standard input and output.
type nodeProcess struct {
	cmd    *exec.Cmd
	input  io.Closer
	handle func(data json.RawMessage) error
	lines  chan nodeCall // to write
	ended  chan struct{} // closed once the output has ended

	mu    sync.Mutex
	last  int                // the number of the last call
	calls map[int]chan error // that wait for their answer
}

// nodeCall is one line to the process: a call, or that a task's handler has returned.
type nodeCall struct {
	Call        int    `json:"call,omitempty"`
	Operation   string `json:"op,omitempty"`
	Data        any    `json:"data,omitempty"`
	At          int64  `json:"at,omitempty"` // Unix ms
	Concurrency int    `json:"concurrency,omitempty"`

	Done  int    `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// nodeMessage is one line of the process: that a call is through, or a task to handle.
type nodeMessage struct {
	Call  int             `json:"call"`
	Error string          `json:"error"`
	Task  int             `json:"task"`
	Data  json.RawMessage `json:"data"`
}

// startNode starts a script. handle is called for each task, each in a goroutine of its own.
func startNode(handle func(data json.RawMessage) error, script string, args ...string) (*nodeProcess, error) {
	cmd := exec.Command("node", append([]string{script}, args...)...)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start node: %w", err)
	}
	p := &nodeProcess{
		cmd:    cmd,
		input:  input,
		handle: handle,
		lines:  make(chan nodeCall, 1024),
		ended:  make(chan struct{}),
		calls:  map[int]chan error{},
	}
	go p.receive(output)
	go p.send(input)
	return p, nil
}

// call has the process do something, and returns when it has.
func (p *nodeProcess) call(ctx context.Context, c nodeCall) error {
	answer := make(chan error, 1)
	p.mu.Lock()
	p.last++
	c.Call = p.last
	p.calls[c.Call] = answer
	p.mu.Unlock()
	p.write(c)
	select {
	case err := <-answer:
		return err
	case <-p.ended:
		return errNodeEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends the process through the end of its input, and waits for it.
func (p *nodeProcess) close() error {
	_ = p.input.Close()
	<-p.ended
	return p.cmd.Wait()
}

func (p *nodeProcess) write(c nodeCall) {
	select {
	case p.lines <- c:
	case <-p.ended:
	}
}

// send writes what there is to write in one go, as each write wakes the process.
func (p *nodeProcess) send(input io.Writer) {
	buffer := bufio.NewWriterSize(input, 1<<16)
	encoder := json.NewEncoder(buffer)
	for {
		select {
		case c := <-p.lines:
			_ = encoder.Encode(c) // fails once the process has ended, which its output tells
			if len(p.lines) == 0 {
				_ = buffer.Flush()
			}
		case <-p.ended:
			return
		}
	}
}

func (p *nodeProcess) receive(output io.Reader) {
	defer close(p.ended)
	decoder := json.NewDecoder(output)
	for {
		var message nodeMessage
		if decoder.Decode(&message) != nil {
			return
		}
		if message.Task != 0 {
			go p.work(message.Task, message.Data)
			continue
		}
		p.answer(message)
	}
}

func (p *nodeProcess) work(task int, data json.RawMessage) {
	done := nodeCall{Done: task}
	if err := p.handle(data); err != nil {
		done.Error = err.Error()
	}
	p.write(done)
}

func (p *nodeProcess) answer(message nodeMessage) {
	p.mu.Lock()
	answer := p.calls[message.Call]
	delete(p.calls, message.Call)
	p.mu.Unlock()
	var err error
	if message.Error != "" {
		err = errors.New(message.Error)
	}
	answer <- err
}
