package main

import (
	"io"
	"strings"
)

// xargs runs a tool with what stdin names.
func xargs(c *call) int {
	set := c.flags()
	set.SetInterspersed(false)
	null := set.BoolP("null", "0", false, "names end with NUL")
	most := set.IntP("max-args", "n", 0, "so many in one call")
	replace := set.StringP("replace", "I", "", "a call for each line, which stands for this")
	skip := set.BoolP("no-run-if-empty", "r", false, "no call without names")
	command := c.parse(set)
	if len(command) == 0 {
		command = []string{"echo"}
	}
	data, _ := io.ReadAll(c.in)
	var words []string
	switch text := string(data); {
	case *null:
		words = strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
	case *replace != "":
		words = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	default:
		words = strings.Fields(text)
	}
	if len(words) == 0 && *skip || len(data) == 0 && (*null || *replace != "") {
		return 0
	}
	status := 0
	do := func(args []string) {
		inner := *c
		inner.args, inner.in, inner.status = args, strings.NewReader(""), 0
		switch code := run(&inner); {
		case code == notFound || code == cannotExecute:
			status = code
		case code != 0:
			status = 123
		}
	}
	if *replace != "" {
		for _, word := range words {
			var args []string
			for _, one := range command {
				args = append(args, strings.ReplaceAll(one, *replace, word))
			}
			do(args)
		}
		return status
	}
	for first := true; first || len(words) > 0; first = false {
		count := len(words)
		if *most > 0 && count > *most {
			count = *most
		}
		do(append(append([]string{}, command...), words[:count]...))
		words = words[count:]
	}
	return status
}
