package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// dd copies in blocks, of which the first may be left out.
func dd(c *call) int {
	from, to, size, count, skip, seek := c.in, c.out, int64(512), int64(-1), int64(0), int64(0)
	flags, input, output, quiet := os.O_WRONLY|os.O_CREATE|os.O_TRUNC, "", "", false
	for _, word := range c.args[1:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "if":
			input = value
		case "of":
			output = value
		case "bs":
			size = amount(c, value)
		case "count":
			count = amount(c, value)
		case "skip":
			skip = amount(c, value)
		case "seek":
			seek = amount(c, value)
		case "status":
			quiet = value == "none"
		case "conv":
			if value != "notrunc" {
				c.say("conv=%s is not known", value)
				return usage
			}
			flags &^= os.O_TRUNC
		default:
			c.say("%s is not known", word)
			return usage
		}
	}
	if size <= 0 {
		c.say("bs=%d is no size", size)
		return usage
	}
	if input != "" {
		file, err := c.open(input)
		if err != nil {
			c.failed(input, err)
			return c.status
		}
		defer file.Close()
		from = file
	}
	if output != "" {
		if seek > 0 {
			flags &^= os.O_TRUNC
		}
		file, err := os.OpenFile(c.path(output), flags, 0o666)
		if err != nil {
			c.failed(output, err)
			return c.status
		}
		defer file.Close()
		if _, err = file.Seek(seek*size, io.SeekStart); seek > 0 && err != nil {
			c.failed(output, err)
			return c.status
		}
		to = file
	}
	whole, part, written := c.blocks(from, to, size, count, skip)
	if !quiet {
		fmt.Fprintf(c.err, "%d+%d records in\n%d+%d records out\n%d bytes copied\n",
			whole, part, whole, part, written)
	}
	return c.status
}

// blocks copies; gives how many were whole, how many not, and the bytes.
func (c *call) blocks(from io.Reader, to io.Writer, size, count, skip int64) (whole, part, written int64) {
	block := make([]byte, size)
	for ; skip > 0; skip-- {
		if _, err := io.ReadFull(from, block); err != nil {
			return
		}
	}
	for count < 0 || whole+part < count {
		n, err := from.Read(block)
		if n > 0 {
			if _, failed := to.Write(block[:n]); failed != nil {
				c.say("%s", reason(failed))
				return
			}
			written += int64(n)
			if int64(n) == size {
				whole++
			} else {
				part++
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.say("%s", reason(err))
			}
			return
		}
	}
	return
}
