package main

import (
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func basename(c *call) int {
	words := c.parse(c.flags())
	c.need(words, 1, 2)
	name := path.Base(words[0])
	if len(words) == 2 && name != words[1] {
		name = strings.TrimSuffix(name, words[1])
	}
	fmt.Fprintln(c.out, name)
	return 0
}

func dirname(c *call) int {
	words := c.parse(c.flags())
	c.need(words, 1, -1)
	for _, word := range words {
		fmt.Fprintln(c.out, path.Dir(strings.TrimRight(word, "/")+strings.Repeat("/", rooted(word))))
	}
	return 0
}

// rooted is 1 for a word of slashes alone, which stands for the root.
func rooted(word string) int {
	if word != "" && strings.Trim(word, "/") == "" {
		return 1
	}
	return 0
}

func mkdir(c *call) int {
	set := c.flags()
	parents := set.BoolP("parents", "p", false, "with all above it; it may be there")
	verbose := set.BoolP("verbose", "v", false, "say what is made")
	set.StringP("mode", "m", "", "ignored: WASI has no modes")
	words := c.parse(set)
	c.need(words, 1, -1)
	for _, word := range words {
		make := os.Mkdir
		if *parents {
			make = os.MkdirAll
		}
		if err := make(c.path(word), 0o777); err != nil {
			c.failed("can't create directory '"+word+"'", err)
		} else if *verbose {
			fmt.Fprintf(c.out, "created directory '%s'\n", word)
		}
	}
	return c.status
}

func rmdir(c *call) int {
	set := c.flags()
	parents := set.BoolP("parents", "p", false, "with those above it")
	words := c.parse(set)
	c.need(words, 1, -1)
	for _, word := range words {
		for {
			if err := syscall.Rmdir(c.path(word)); err != nil {
				c.failed(word, err)
				break
			}
			word = path.Dir(word)
			if !*parents || word == "." || word == "/" {
				break
			}
		}
	}
	return c.status
}

func rm(c *call) int {
	set := c.flags()
	force := set.BoolP("force", "f", false, "what is not there is no error")
	recursive := set.BoolP("recursive", "r", false, "folders with all in them")
	set.BoolVarP(recursive, "Recursive", "R", false, "as -r")
	empty := set.BoolP("dir", "d", false, "empty folders")
	verbose := set.BoolP("verbose", "v", false, "say what is removed")
	words := c.parse(set)
	if !*force {
		c.need(words, 1, -1)
	}
	for _, word := range words {
		if base := path.Base(word); base == "/" || base == "." || base == ".." {
			c.say("'%s' is not removed", word)
			continue
		}
		info, err := os.Lstat(c.path(word))
		switch {
		case err != nil:
		case info.IsDir() && !*recursive && !*empty:
			err = syscall.EISDIR
		case *recursive:
			err = os.RemoveAll(c.path(word))
		default:
			err = os.Remove(c.path(word))
		}
		if err != nil && !(*force && errors.Is(err, fs.ErrNotExist)) {
			c.failed("can't remove '"+word+"'", err)
		} else if err == nil && *verbose {
			fmt.Fprintf(c.out, "removed '%s'\n", word)
		}
	}
	return c.status
}

func touch(c *call) int {
	set := c.flags()
	noCreate := set.BoolP("no-create", "c", false, "make no file")
	access := set.BoolP("access", "a", false, "the access time alone")
	modify := set.BoolP("modify", "m", false, "the modification time alone")
	given := set.StringP("date", "d", "", "this time: @seconds or RFC 3339")
	reference := set.StringP("reference", "r", "", "the time of this file")
	words := c.parse(set)
	c.need(words, 1, -1)
	when := time.Now()
	var err error
	if *reference != "" {
		var info fs.FileInfo
		if info, err = os.Stat(c.path(*reference)); err == nil {
			when = info.ModTime()
		}
	} else if seconds := int64(0); *given != "" {
		if _, scan := fmt.Sscanf(*given, "@%d", &seconds); scan == nil {
			when = time.Unix(seconds, 0)
		} else {
			when, err = time.Parse(time.RFC3339, *given)
		}
	}
	if err != nil {
		c.say("%v", err)
		return c.status
	}
	for _, word := range words {
		_, missing := os.Stat(c.path(word))
		if errors.Is(missing, fs.ErrNotExist) {
			if *noCreate {
				continue
			}
			file, err := os.OpenFile(c.path(word), os.O_WRONLY|os.O_CREATE, 0o666)
			if err != nil {
				c.failed(word, err)
				continue
			}
			file.Close()
		}
		a, m := when, when
		if *access && !*modify {
			m = time.Time{} // a zero time is left as it is
		} else if *modify && !*access {
			a = time.Time{}
		}
		if err := os.Chtimes(c.path(word), a, m); err != nil {
			c.failed(word, err)
		}
	}
	return c.status
}

func ln(c *call) int {
	set := c.flags()
	symbolic := set.BoolP("symbolic", "s", false, "a symbolic one")
	force := set.BoolP("force", "f", false, "in place of what is there")
	plain := set.BoolP("no-dereference", "n", false, "a link to a folder is not the folder")
	words := c.parse(set)
	c.need(words, 1, -1)
	if len(words) == 1 {
		words = append(words, path.Base(words[0]))
	}
	sources, last := words[:len(words)-1], words[len(words)-1]
	for _, source := range sources {
		target := into(c, last, source, *plain)
		if *force {
			os.Remove(c.path(target))
		}
		var err error
		if *symbolic {
			err = os.Symlink(source, c.path(target))
		} else {
			err = os.Link(c.path(source), c.path(target))
		}
		if err != nil {
			c.failed(target, err)
		}
	}
	return c.status
}

// into gives where a source goes: below the target, if that is a folder.
func into(c *call, target, source string, plain bool) string {
	stat := os.Stat
	if plain {
		stat = os.Lstat
	}
	if info, err := stat(c.path(target)); err == nil && info.IsDir() {
		return strings.TrimRight(target, "/") + "/" + path.Base(source)
	}
	return target
}

func readlink(c *call) int {
	set := c.flags()
	follow := set.BoolP("canonicalize", "f", false, "the real path, no link on the way")
	bare := set.BoolP("no-newline", "n", false, "no end of line")
	words := c.parse(set)
	c.need(words, 1, -1)
	for _, word := range words {
		target, err := os.Readlink(c.path(word))
		if *follow {
			target, err = filepath.EvalSymlinks(c.path(word))
		}
		if err != nil {
			c.status = 1 // readlink(1) says nothing
			continue
		}
		fmt.Fprint(c.out, target)
		if !*bare {
			fmt.Fprintln(c.out)
		}
	}
	return c.status
}

type copier struct {
	c                                            *call
	follow, recursive, times, noClobber, verbose bool
	force                                        bool
}

func cp(c *call) int {
	set := c.flags()
	o := copier{c: c}
	set.BoolVarP(&o.recursive, "recursive", "r", false, "folders with all in them")
	set.BoolVarP(&o.recursive, "Recursive", "R", false, "as -r")
	archive := set.BoolP("archive", "a", false, "as -rPp")
	set.BoolVarP(&o.times, "preserve", "p", false, "keep the times")
	follow := set.BoolP("dereference", "L", false, "what links lead to, not links")
	keep := set.BoolP("no-dereference", "P", false, "links as they are")
	set.BoolVarP(&o.force, "force", "f", false, "remove what can't be written to")
	set.BoolVarP(&o.noClobber, "no-clobber", "n", false, "not over what is there")
	set.BoolVarP(&o.verbose, "verbose", "v", false, "say what is copied")
	target := set.StringP("target-directory", "t", "", "into this folder")
	words := c.parse(set)
	o.recursive = o.recursive || *archive
	o.times = o.times || *archive
	o.follow = *follow || !o.recursive && !*keep
	if *target != "" {
		words = append(words, *target)
	}
	o.each(words, o.copy)
	return c.status
}

// each does something with every source and the place that it goes to.
func (o *copier) each(words []string, do func(from, to string) error) {
	c := o.c
	c.need(words, 2, -1)
	sources, last := words[:len(words)-1], words[len(words)-1]
	if info, err := os.Stat(c.path(last)); len(sources) > 1 && (err != nil || !info.IsDir()) {
		c.say("'%s' is not a directory", last)
		return
	}
	for _, source := range sources {
		to := into(c, last, source, false)
		if err := do(c.path(source), c.path(to)); err != nil {
			c.failed(source, err)
		} else if o.verbose {
			fmt.Fprintf(c.out, "'%s' -> '%s'\n", source, to)
		}
	}
}

var errOmitted = errors.New("it is a directory (-r copies those)")
var errInside = errors.New("can't be copied into itself")
var errSame = errors.New("source and target are the same file")

func (o *copier) copy(from, to string) error {
	stat := os.Lstat
	if o.follow {
		stat = os.Stat
	}
	info, err := stat(from)
	if err != nil {
		return err
	}
	there, err := os.Stat(to)
	if err == nil && os.SameFile(info, there) {
		return errSame
	}
	if err == nil && o.noClobber && !info.IsDir() {
		return nil
	}
	switch {
	case info.IsDir():
		err = o.folder(from, to)
	case info.Mode()&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(from); err == nil {
			os.Remove(to)
			err = os.Symlink(target, to)
		}
		return err
	default:
		err = o.file(from, to)
	}
	if err == nil && o.times {
		err = os.Chtimes(to, info.ModTime(), info.ModTime())
	}
	return err
}

func (o *copier) folder(from, to string) error {
	if !o.recursive {
		return errOmitted
	}
	if strings.HasPrefix(path.Clean(to)+"/", path.Clean(from)+"/") {
		return errInside
	}
	if err := os.Mkdir(to, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := o.copy(from+"/"+entry.Name(), to+"/"+entry.Name()); err != nil {
			o.c.failed(from+"/"+entry.Name(), err)
		}
	}
	return nil
}

func (o *copier) file(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	target, err := os.OpenFile(to, flags, 0o666)
	if err != nil && o.force {
		os.Remove(to)
		target, err = os.OpenFile(to, flags, 0o666)
	}
	if err != nil {
		return err
	}
	if _, err = io.Copy(target, source); err != nil {
		target.Close()
		return err
	}
	return target.Close()
}

func mv(c *call) int {
	set := c.flags()
	o := copier{c: c, recursive: true, times: true}
	set.BoolVarP(&o.force, "force", "f", false, "ignored: nothing is asked")
	set.BoolVarP(&o.noClobber, "no-clobber", "n", false, "not over what is there")
	set.BoolVarP(&o.verbose, "verbose", "v", false, "say what is moved")
	target := set.StringP("target-directory", "t", "", "into this folder")
	words := c.parse(set)
	if *target != "" {
		words = append(words, *target)
	}
	o.each(words, func(from, to string) error {
		if _, err := os.Lstat(to); err == nil && o.noClobber {
			return nil
		}
		err := os.Rename(from, to)
		if !errors.Is(err, syscall.EXDEV) {
			return err
		}
		// Another mount: copied whole, and only then removed.
		before := c.status
		c.status = 0
		if err := o.copy(from, to); err != nil {
			return err
		}
		if c.status != 0 {
			return errors.New("not removed: not all of it could be copied")
		}
		c.status = before
		return os.RemoveAll(from)
	})
	return c.status
}

func checksum(c *call) int {
	set := c.flags()
	check := set.BoolP("check", "c", false, "compare with the sums in the files")
	files := c.parse(set)
	fresh := map[string]func() hash.Hash{"md5sum": md5.New, "sha256sum": sha256.New}[c.name]
	sum := func(from io.Reader) (string, error) {
		state := fresh()
		_, err := io.Copy(state, from)
		return fmt.Sprintf("%x", state.Sum(nil)), err
	}
	c.each(files, func(name string, from io.Reader) {
		if !*check {
			text, err := sum(from)
			if err != nil {
				c.failed(name, err)
				return
			}
			fmt.Fprintf(c.out, "%s  %s\n", text, name)
			return
		}
		lines(from, func(line []byte) bool {
			wanted, file, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "  ")
			c.each([]string{file}, func(file string, from io.Reader) {
				if text, err := sum(from); err == nil && text == wanted {
					fmt.Fprintln(c.out, file+": OK")
				} else {
					fmt.Fprintln(c.out, file+": FAILED")
					c.status = 1
				}
			})
			return true
		})
	})
	return c.status
}

func gzipTool(c *call) int {
	set := c.flags()
	decompress := set.BoolP("decompress", "d", false, "the other way round")
	stdout := set.BoolP("stdout", "c", false, "write to stdout, keep the file")
	keep := set.BoolP("keep", "k", false, "keep the file")
	force := set.BoolP("force", "f", false, "over what is there")
	levels := [10]*bool{}
	for level := 1; level <= 9; level++ {
		levels[level] = set.BoolP(fmt.Sprintf("level-%d", level), fmt.Sprint(level), false, "how hard")
	}
	files := c.parse(set)
	level := gzip.DefaultCompression
	for at, on := range levels {
		if on != nil && *on {
			level = at
		}
	}
	c.each(files, func(name string, from io.Reader) {
		if *stdout || name == "-" {
			if err := zip(c.out, from, *decompress, level); err != nil {
				c.failed(name, err)
			}
			return
		}
		target := name + ".gz"
		if *decompress {
			short, ok := strings.CutSuffix(name, ".gz")
			if target = short; !ok {
				c.say("%s: no .gz at its end", name)
				return
			}
		}
		flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
		if *force {
			flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		}
		file, err := os.OpenFile(c.path(target), flags, 0o666)
		if err != nil {
			c.failed(target, err)
			return
		}
		err = zip(file, from, *decompress, level)
		if closing := file.Close(); err == nil {
			err = closing
		}
		if err != nil {
			os.Remove(c.path(target))
			c.failed(name, err)
		} else if !*keep {
			os.Remove(c.path(name))
		}
	})
	return c.status
}

func gunzip(c *call) int {
	inner := *c
	inner.args = append([]string{"gzip", "-d"}, c.args[1:]...)
	return gzipTool(&inner)
}

func zip(to io.Writer, from io.Reader, decompress bool, level int) error {
	if decompress {
		reader, err := gzip.NewReader(from)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, reader)
		return err
	}
	writer, err := gzip.NewWriterLevel(to, level)
	if err != nil {
		return err
	}
	if _, err := io.Copy(writer, from); err != nil {
		return err
	}
	return writer.Close()
}
