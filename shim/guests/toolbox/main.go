// The toolbox is one program that is many: what a shell wants, for images that have none.
//
// The name that it is called by, or its first argument, says which tool it is. Inside its shell
// the tools are functions: wasm has neither fork nor exec.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// Exit codes that POSIX gives a shell (XCU 2.8.2).
const (
	usage         = 2
	cannotExecute = 126
	notFound      = 127
	brokenPipe    = 128 + 13
)

// A call is one tool at work: in a process of its own, or in a shell with others.
type call struct {
	ctx     context.Context
	name    string
	args    []string
	in      io.Reader
	out     io.Writer
	err     io.Writer
	dir     string
	environ []string
	status  int
}

type tool func(*call) int

var tools map[string]tool

// writers are the tools that change files.
var writers = map[string]bool{
	"cp": true, "dd": true, "gunzip": true, "gzip": true, "ln": true, "mkdir": true, "mv": true,
	"rm": true, "rmdir": true, "tar": true, "tee": true, "touch": true,
}

// The map is filled here because the shell and xargs, which are in it, look tools up.
func init() {
	tools = map[string]tool{
		"[": shellBuiltin, "basename": basename, "cat": cat, "cp": cp, "cut": cut, "date": date,
		"dd": dd, "dirname": dirname, "echo": shellBuiltin, "env": env, "false": shellBuiltin,
		"find": find, "grep": grep, "gunzip": gunzip, "gzip": gzipTool, "head": head,
		"hostname": hostname, "id": id, "ipcs": ipcs, "ln": ln, "ls": ls, "md5sum": checksum,
		"mkdir": mkdir, "mv": mv, "netstat": netstat, "pgrep": pgrep, "pidof": pidof,
		"printenv": printenv, "printf": shellBuiltin, "ps": ps, "pwd": shellBuiltin,
		"readlink": readlink, "rm": rm, "rmdir": rmdir, "seq": seq, "sh": sh,
		"sha256sum": checksum, "sleep": sleep, "sort": sortTool, "tail": tail, "tar": tarTool,
		"tee": tee, "test": shellBuiltin, "top": top, "touch": touch, "tr": tr, "true": shellBuiltin,
		"uname": uname, "uniq": uniq, "wc": wc, "which": which, "whoami": whoami, "xargs": xargs,
	}
}

func main() {
	readHost()
	args := os.Args
	if len(args) == 0 {
		args = []string{"toolbox"}
	}
	name := path.Base(args[0])
	if _, known := tools[name]; !known && len(args) > 1 {
		// `toolbox ls -l`, as busybox does it, too.
		args = args[1:]
		name = path.Base(args[0])
	}
	if name == "--list" {
		fmt.Println(strings.Join(names(), "\n"))
		return
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	c := &call{
		ctx: context.Background(), args: args, in: stdin(), out: os.Stdout, err: os.Stderr,
		dir: dir, environ: os.Environ(),
	}
	os.Exit(run(c))
}

func names() []string {
	found := make([]string, 0, len(tools))
	for name := range tools {
		found = append(found, name)
	}
	sort.Strings(found)
	return found
}

// run does what c.args say; a reader that has gone ends the tool, as SIGPIPE would.
func run(c *call) (code int) {
	c.name = path.Base(c.args[0])
	found, known := tools[c.name]
	if !known {
		fmt.Fprintf(c.err, "%s: not found\n", c.args[0])
		return notFound
	}
	c.out = &output{c.out}
	defer func() {
		switch what := recover().(type) {
		case nil:
		case pipeClosed:
			code = brokenPipe
		case badUsage:
			code = int(what)
		default:
			panic(what)
		}
	}()
	return found(c)
}

type (
	pipeClosed struct{}
	badUsage   int
)

// An output ends its tool when nobody reads any more, so that `... | head` ends.
type output struct{ to io.Writer }

func (o *output) Write(data []byte) (int, error) {
	n, err := o.to.Write(data)
	if errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.EPIPE) {
		panic(pipeClosed{})
	}
	return n, err
}

// flags gives an empty set of the tool's options; parse reads them.
func (c *call) flags() *pflag.FlagSet {
	set := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SortFlags = false
	return set
}

// parse reads options until `--`; wrong ones end the tool with code 2, --help with 0.
func (c *call) parse(set *pflag.FlagSet, args ...string) []string {
	if args == nil {
		args = c.args[1:]
	}
	err := set.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(c.out, "usage: %s [options] ...\n%s", c.name, set.FlagUsages())
		panic(badUsage(0))
	case err != nil:
		c.say("%v", err)
		panic(badUsage(usage))
	}
	return set.Args()
}

// need ends the tool with code 2 unless it has between least and most (-1: any) operands.
func (c *call) need(operands []string, least, most int) {
	if len(operands) < least {
		c.say("missing operand")
		panic(badUsage(usage))
	}
	if most >= 0 && len(operands) > most {
		c.say("extra operand '%s'", operands[most])
		panic(badUsage(usage))
	}
}

// say writes one line to stderr and makes the tool's exit code at least 1.
func (c *call) say(format string, values ...any) {
	fmt.Fprintf(c.err, "%s: %s\n", c.name, fmt.Sprintf(format, values...))
	if c.status == 0 {
		c.status = 1
	}
}

// failed says what a system call complained about, in the words that the user gave.
func (c *call) failed(file string, err error) {
	c.failedAt(file, file, err)
}

func (c *call) failedAt(file, what string, err error) {
	if errors.Is(err, syscall.EIO) && writers[c.name] && readOnly(c.path(file)) {
		err = syscall.EROFS // which the engine does not know
	}
	c.say("%s: %s", what, reason(err))
}

func reason(err error) string {
	var one *fs.PathError
	var two *os.LinkError
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &one):
		return one.Err.Error()
	case errors.As(err, &two):
		return two.Err.Error()
	}
	return err.Error()
}

// path gives the file that the user means: a shell has a directory of its own.
func (c *call) path(name string) string {
	if name == "" || strings.HasPrefix(name, "/") {
		return name
	}
	return strings.TrimSuffix(c.dir, "/") + "/" + name
}

// open gives the file, or stdin for "-".
func (c *call) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(c.in), nil
	}
	file, err := os.Open(c.path(name))
	if err != nil {
		if text, known := self(c.path(name)); known && errors.Is(err, fs.ErrNotExist) {
			return text, nil
		}
		return nil, err
	}
	if info, err := file.Stat(); err == nil && info.IsDir() {
		file.Close()
		return nil, syscall.EISDIR
	}
	return file, nil
}

// each reads the named files, or stdin if there are none, one after the other.
func (c *call) each(files []string, read func(name string, from io.Reader)) {
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		from, err := c.open(name)
		if err != nil {
			c.failed(name, err)
			continue
		}
		read(name, from)
		from.Close()
	}
}

func (c *call) getenv(name string) string {
	for at := len(c.environ) - 1; at >= 0; at-- {
		if key, value, ok := strings.Cut(c.environ[at], "="); ok && key == name {
			return value
		}
	}
	return ""
}
