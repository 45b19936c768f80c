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
	"strings"
)

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
