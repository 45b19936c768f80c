package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// sh is a POSIX shell whose commands are the other tools.
func sh(c *call) int {
	set := c.flags()
	set.SetInterspersed(false)
	command := set.BoolP("command", "c", false, "run the first operand")
	interactive := set.BoolP("interactive", "i", false, "prompt")
	set.BoolP("stdin", "s", false, "read stdin")
	set.BoolP("login", "l", false, "ignored")
	errexit := set.BoolP("errexit", "e", false, "end at the first failure")
	nounset := set.BoolP("nounset", "u", false, "an unset variable is an error")
	xtrace := set.BoolP("xtrace", "x", false, "show commands")
	noexec := set.BoolP("noexec", "n", false, "read only")
	noglob := set.BoolP("noglob", "f", false, "no patterns")
	set.StringArrayP("option", "o", nil, "ignored")
	rest := c.parse(set)

	var params []string
	for name, on := range map[string]bool{
		"-e": *errexit, "-u": *nounset, "-x": *xtrace, "-n": *noexec, "-f": *noglob,
	} {
		if on {
			params = append(params, name)
		}
	}
	source, name := "", "sh"
	if *command {
		c.need(rest, 1, -1)
		source, rest = rest[0], rest[1:]
		if len(rest) > 0 { // $0
			name, rest = rest[0], rest[1:]
		}
	}
	file := ""
	if !*command && len(rest) > 0 && !set.Changed("stdin") {
		file, rest = rest[0], rest[1:]
	}
	runner, err := newRunner(c, append(append(params, "--"), rest...))
	if err != nil {
		c.say("%v", err)
		return usage
	}
	switch {
	case *command:
		return runText(c, runner, strings.NewReader(source), name)
	case file != "":
		script, err := c.open(file)
		if err != nil {
			c.failed(file, err)
			return notFound
		}
		defer script.Close()
		return runText(c, runner, script, file)
	case *interactive || isTerminal(c.in):
		return prompt(c, runner)
	}
	return converse(c, runner, func(bool) {})
}

func newRunner(c *call, params []string) (*interp.Runner, error) {
	return interp.New(
		interp.StdIO(c.in, c.out, c.err),
		interp.Env(expand.ListEnviron(c.environ...)),
		interp.Dir(c.dir),
		interp.Params(params...),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc {
			return func(ctx context.Context, args []string) error { return execute(ctx, c.args[0], args) }
		}),
	)
}

// execute runs a tool as a command of the shell. Nothing else can be run, and that is 126, as is
// a command that is masked in the image.
func execute(ctx context.Context, name string, args []string) error {
	shell := interp.HandlerCtx(ctx)
	c := &call{
		ctx: ctx, args: args, in: shell.Stdin, out: shell.Stdout, err: shell.Stderr,
		dir: shell.Dir,
	}
	if c.in == nil {
		c.in = strings.NewReader("")
	}
	shell.Env.Each(func(name string, value expand.Variable) bool {
		if value.Exported {
			c.environ = append(c.environ, name+"="+value.String())
		}
		return true
	})
	if _, known := tools[path.Base(args[0])]; !known {
		if _, err := interp.LookPathDir(shell.Dir, shell.Env, args[0]); err == nil || exists(c, args[0]) {
			fmt.Fprintf(c.err, "%s: %s: the toolbox runs its own tools only, not programs\n", name, args[0])
			return interp.NewExitStatus(cannotExecute)
		}
		fmt.Fprintf(c.err, "%s: %s: not found\n", name, args[0])
		return interp.NewExitStatus(notFound)
	}
	if masked(c, args[0]) {
		fmt.Fprintf(c.err, "%s: %s: Permission denied\n", name, args[0])
		return interp.NewExitStatus(cannotExecute)
	}
	if code := run(c); code != 0 {
		return interp.NewExitStatus(uint8(code))
	}
	return nil
}

// masked tells whether the first file of that name in PATH is none that could be run: where a
// container's masked paths hide a command, the shell does not have it either.
func masked(c *call, name string) bool {
	folders := strings.Split(c.getenv("PATH"), ":")
	if strings.Contains(name, "/") {
		folders = []string{""}
	}
	for _, folder := range folders {
		if folder != "" {
			folder += "/"
		}
		if info, err := os.Stat(c.path(folder + name)); err == nil {
			return !info.Mode().IsRegular()
		}
	}
	return false
}

func exists(c *call, name string) bool {
	if !strings.Contains(name, "/") {
		return false
	}
	_, err := os.Stat(c.path(name))
	return err == nil
}

// exitCode gives the shell's status for what the interpreter returned.
func exitCode(c *call, err error) int {
	if err == nil {
		return 0
	}
	if status, ok := interp.IsExitStatus(err); ok {
		return int(status)
	}
	c.say("%v", err)
	return 1
}

func runText(c *call, runner *interp.Runner, from io.Reader, name string) int {
	program, err := syntax.NewParser().Parse(from, name)
	if err != nil {
		c.say("%v", err)
		return usage
	}
	return exitCode(c, runner.Run(c.ctx, program))
}

// prompt talks with a person; the terminal's own line discipline does the editing.
func prompt(c *call, runner *interp.Runner) int {
	mark := "$ "
	if host.uid == "0" {
		mark = "# "
	}
	status := converse(c, runner, func(more bool) {
		if more {
			fmt.Fprint(c.err, "> ")
		} else {
			fmt.Fprint(c.err, runner.Dir, " ", mark)
		}
	})
	if !runner.Exited() {
		fmt.Fprintln(c.err) // behind the prompt, where Ctrl-D was pressed
	}
	return status
}

// converse runs each command when its line is complete: what follows on stdin is the command's to
// read. A line that can't be understood is reported; the next one is a new start.
func converse(c *call, runner *interp.Runner, ask func(more bool)) int {
	lines := &lineReader{from: c.in}
	status := 0
	runner.Reset()
	for {
		parser := syntax.NewParser()
		ask(false)
		err := parser.Interactive(lines, func(statements []*syntax.Stmt) bool {
			if parser.Incomplete() {
				ask(true)
				return true
			}
			for _, statement := range statements {
				status = exitCode(c, runner.Run(c.ctx, statement))
				if runner.Exited() {
					return false
				}
			}
			ask(false)
			return true
		})
		var wrong syntax.ParseError
		if !errors.As(err, &wrong) || lines.ended {
			if err != nil {
				c.say("%v", err)
				status = usage
			}
			return status
		}
		c.say("%v", err)
		status = usage
	}
}

// A lineReader takes no byte of the next line: that may be a command's input.
type lineReader struct {
	from  io.Reader
	ended bool
}

func (l *lineReader) Read(buffer []byte) (int, error) {
	for at := range buffer {
		n, err := l.from.Read(buffer[at : at+1])
		if n == 0 || err != nil {
			l.ended = true
			if at+n > 0 {
				return at + n, nil
			}
			return 0, io.EOF
		}
		if buffer[at] == '\n' {
			return at + 1, nil
		}
	}
	return len(buffer), nil
}

// shellBuiltin is for what every shell has inside: one implementation for both ways to call it.
func shellBuiltin(c *call) int {
	runner, err := newRunner(c, append([]string{"--", c.name}, c.args[1:]...))
	if err != nil {
		c.say("%v", err)
		return usage
	}
	return runText(c, runner, strings.NewReader(`builtin "$@"`), c.name)
}
