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

func (o *archive) read(file string, words []string, zipped, extract bool) error {
	from, err := o.c.open(file)
	if err != nil {
		return err
	}
	defer from.Close()
	buffered := bufio.NewReaderSize(from, 64<<10)
	reader := io.Reader(buffered)
	// As others do it, gzip is known by its first bytes.
	if head, _ := buffered.Peek(2); zipped || string(head) == "\x1f\x8b" {
		if reader, err = gzip.NewReader(buffered); err != nil {
			return err
		}
	}
	entries := tar.NewReader(reader)
	for {
		header, err := entries.Next()
		if err == io.EOF {
			// What follows the end is read too: who writes it would otherwise get EPIPE.
			_, err = io.Copy(io.Discard, reader)
			return err
		}
		if err != nil {
			return err
		}
		if !chosen(header.Name, words) || o.excluded(header.Name) {
			continue
		}
		if !extract {
			o.show(header)
			continue
		}
		o.told(header.Name)
		if err := o.unpack(header, entries); err != nil {
			o.c.failed(header.Name, err)
		}
	}
}

func (o *archive) show(header *tar.Header) {
	if !o.verbose {
		fmt.Fprintln(o.c.out, header.Name)
		return
	}
	name := header.Name
	if header.Linkname != "" {
		name += " -> " + header.Linkname
	}
	fmt.Fprintf(o.c.out, "%s %d/%d %9d %s %s\n", header.FileInfo().Mode(), header.Uid, header.Gid,
		header.Size, header.ModTime.Format("2006-01-02 15:04"), name)
}

func chosen(name string, words []string) bool {
	for _, word := range words {
		word = strings.TrimSuffix(word, "/")
		if name == word || strings.HasPrefix(name, word+"/") {
			return true
		}
	}
	return len(words) == 0
}

var errOutside = errors.New("the name leads out of the folder: left out")

// unpack makes one entry below o.dir. A name with .. in it is refused.
func (o *archive) unpack(header *tar.Header, from io.Reader) error {
	if o.toOutput {
		if header.Typeflag == tar.TypeReg {
			_, err := io.Copy(o.c.out, from)
			return err
		}
		return nil
	}
	name := stripped(header.Name, o.strip)
	if name == "" {
		return nil
	}
	if climbs(header.Name) {
		return errOutside
	}
	target := strings.TrimSuffix(o.dir, "/") + "/" + name
	if header.Typeflag == tar.TypeDir {
		return os.MkdirAll(target, 0o777)
	}
	if err := os.MkdirAll(path.Dir(target), 0o777); err != nil {
		return err
	}
	_, err := os.Lstat(target)
	if err == nil && o.keep {
		return fs.ErrExist
	}
	switch header.Typeflag {
	case tar.TypeReg:
		err = o.write(target, from)
	case tar.TypeSymlink:
		os.Remove(target)
		return os.Symlink(header.Linkname, target)
	case tar.TypeLink:
		linked := stripped(header.Linkname, o.strip)
		if climbs(header.Linkname) {
			return errOutside
		}
		os.Remove(target)
		return os.Link(strings.TrimSuffix(o.dir, "/")+"/"+linked, target)
	default:
		return errors.New("neither a file nor a folder nor a link: left out")
	}
	if err == nil && !o.noTimes {
		err = os.Chtimes(target, header.ModTime, header.ModTime)
	}
	return err
}

func stripped(name string, count int) string {
	name = strings.TrimLeft(path.Clean("/"+strings.TrimLeft(name, "/")), "/")
	for ; count > 0; count-- {
		_, name, _ = strings.Cut(name, "/")
	}
	return name
}

// write puts a file in place of what is there: a link is replaced, not followed.
func (o *archive) write(target string, from io.Reader) error {
	if info, err := os.Lstat(target); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		os.Remove(target)
	}
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, from); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

func climbs(name string) bool {
	return strings.Contains("/"+name+"/", "/../")
}
