package main

import (
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
)

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
