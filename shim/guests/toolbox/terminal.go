package main

import (
	"bytes"
	"io"
	"os"
)

const ctrlD = 4

// A terminal is stdin where that is one: the shim has it deliver Ctrl-D as a character, because
// the engine would take an end of file for the end for ever. All readers share what it has read.
type terminal struct {
	from    io.Reader
	pending []byte
	ended   bool
}

func stdin() io.Reader {
	if host.terminal {
		return &terminal{from: os.Stdin}
	}
	return os.Stdin
}

func isTerminal(in io.Reader) bool {
	_, yes := in.(*terminal)
	return yes
}

// Read gives an end of file for a Ctrl-D at a line's beginning; behind text, as in the kernel, it
// only hands the text over.
func (t *terminal) Read(buffer []byte) (int, error) {
	if len(t.pending) == 0 && !t.ended {
		chunk := make([]byte, 4096)
		n, err := t.from.Read(chunk)
		t.pending, t.ended = chunk[:n], n == 0 || err != nil
	}
	if len(t.pending) == 0 {
		return 0, io.EOF
	}
	if t.pending[0] == ctrlD {
		t.pending = t.pending[1:]
		return 0, io.EOF
	}
	// One line at a time: what follows it may begin with another Ctrl-D.
	end := len(t.pending)
	if at := bytes.IndexAny(t.pending, "\n\x04"); at >= 0 {
		end = at
		if t.pending[at] == '\n' {
			end++
		}
	}
	n := copy(buffer, t.pending[:end])
	t.pending = t.pending[n:]
	if n == end && len(t.pending) > 0 && buffer[n-1] != '\n' && t.pending[0] == ctrlD {
		t.pending = t.pending[1:]
	}
	return n, nil
}
