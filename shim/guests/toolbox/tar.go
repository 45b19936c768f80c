package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

type archive struct {
	c                                        *call
	verbose, noTimes, keep, follow, toOutput bool
	dir                                      string
	exclude                                  []string
	strip                                    int
}

// tarTool packs and unpacks, as `kubectl cp` wants it. What WASI does not tell is written as
// everybody has it: 0644, 0755 for folders, and the owner that the process has.
func tarTool(c *call) int {
	set := c.flags()
	o := archive{c: c}
	create := set.BoolP("create", "c", false, "make an archive")
	extract := set.BoolP("extract", "x", false, "unpack")
	list := set.BoolP("list", "t", false, "show what is in it")
	file := set.StringP("file", "f", "-", "the archive")
	zipped := set.BoolP("gzip", "z", false, "compressed")
	dir := set.StringP("directory", "C", "", "go there first")
	set.BoolVarP(&o.verbose, "verbose", "v", false, "say the names")
	set.BoolVarP(&o.noTimes, "touch", "m", false, "leave the times as they come")
	set.BoolVarP(&o.keep, "keep-old-files", "k", false, "not over what is there")
	set.BoolVarP(&o.follow, "dereference", "h", false, "what links lead to")
	set.BoolVarP(&o.toOutput, "to-stdout", "O", false, "unpack to stdout")
	set.StringArrayVar(&o.exclude, "exclude", nil, "not what fits this pattern")
	set.IntVar(&o.strip, "strip-components", 0, "leave so many folders out of the names")
	for _, name := range []string{"same-permissions", "preserve-permissions", "same-owner",
		"no-same-permissions", "no-same-owner", "no-overwrite-dir", "overwrite", "numeric-owner",
		"no-recursion"} {
		short := map[string]string{"same-permissions": "p", "no-same-owner": "o"}[name]
		set.BoolP(name, short, false, "ignored: WASI has neither")
	}
	args := append([]string{}, c.args[1:]...)
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args[0] = "-" + args[0] // as in `tar xf`
	}
	words := c.parse(set, args...)
	o.dir = c.dir
	if *dir != "" {
		o.dir = c.path(*dir)
	}
	if info, err := os.Stat(o.dir); err != nil || !info.IsDir() {
		if err == nil {
			err = errors.New("it is no directory")
		}
		c.failed(o.dir, err)
		return usage
	}
	var err error
	switch {
	case *create && !*extract && !*list:
		err = o.pack(*file, words, *zipped)
	case *extract != *list && !*create:
		err = o.read(*file, words, *zipped, *extract)
	default:
		c.say("one of -c, -x and -t is wanted")
		return usage
	}
	if err != nil {
		c.say("%s", reason(err))
		return usage
	}
	return c.status
}

func (o *archive) pack(file string, words []string, zipped bool) error {
	o.c.need(words, 1, -1)
	to := io.Writer(o.c.out)
	if file != "-" {
		made, err := os.Create(o.c.path(file))
		if err != nil {
			return err
		}
		defer made.Close()
		to = made
	}
	buffered := bufio.NewWriterSize(to, 64<<10)
	var packer *gzip.Writer
	writer := tar.NewWriter(buffered)
	if zipped {
		packer = gzip.NewWriter(buffered)
		writer = tar.NewWriter(packer)
	}
	for _, word := range words {
		if err := o.add(writer, word); err != nil {
			return err
		}
	}
	if err := writer.Close(); err != nil {
		return err
	}
	if packer != nil {
		if err := packer.Close(); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// add writes a file, or a folder with all in it; only an error of the archive itself ends it.
func (o *archive) add(to *tar.Writer, word string) error {
	real := word
	if !strings.HasPrefix(word, "/") {
		real = strings.TrimSuffix(o.dir, "/") + "/" + word
	}
	return filepath.WalkDir(real, func(at string, _ fs.DirEntry, err error) error {
		name := path.Clean(word) + strings.TrimPrefix(path.Clean(at), path.Clean(real))
		if path.Clean(real) == "/" {
			name = path.Clean(at)
		}
		name = strings.TrimLeft(name, "/")
		if err != nil {
			o.c.failed(name, err)
			return nil
		}
		if o.excluded(name) {
			return nil
		}
		return o.one(to, at, name)
	})
}

func (o *archive) one(to *tar.Writer, real, name string) error {
	stat := os.Lstat
	if o.follow {
		stat = os.Stat
	}
	info, err := stat(real)
	if err != nil {
		o.c.failed(name, err)
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(real); err != nil {
			o.c.failed(name, err)
			return nil
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		o.c.failed(name, err) // a socket
		return nil
	}
	header.Name, header.Mode = name, 0o644
	if name == "" {
		header.Name = "."
	}
	if info.IsDir() {
		header.Name, header.Mode = header.Name+"/", 0o755
	}
	header.Uid, _ = strconv.Atoi(host.uid)
	header.Gid, _ = strconv.Atoi(host.gid)
	var from *os.File
	if info.Mode().IsRegular() {
		if from, err = os.Open(real); err != nil {
			o.c.failed(name, err)
			return nil
		}
		defer from.Close()
	}
	o.told(header.Name)
	if err := to.WriteHeader(header); err != nil {
		return err
	}
	if from == nil {
		return nil
	}
	// Exactly as many bytes as the header says, whatever happens to the file meanwhile.
	copied, err := io.CopyN(to, from, header.Size)
	if err != nil && err != io.EOF {
		o.c.failed(name, err)
	}
	if copied < header.Size {
		o.c.say("%s: it became shorter: filled with zeros", name)
		_, err = io.CopyN(to, zeros{}, header.Size-copied)
		return err
	}
	return nil
}

type zeros struct{}

func (zeros) Read(data []byte) (int, error) {
	for at := range data {
		data[at] = 0
	}
	return len(data), nil
}

func (o *archive) told(name string) {
	if o.verbose {
		fmt.Fprintln(o.c.err, name)
	}
}

func (o *archive) excluded(name string) bool {
	for _, pattern := range o.exclude {
		whole, _ := path.Match(pattern, name)
		base, _ := path.Match(pattern, path.Base(name))
		if whole || base {
			return true
		}
	}
	return false
}
