package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

func sleep(c *call) int {
	units := map[byte]float64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400}
	words := c.parse(c.flags())
	c.need(words, 1, -1)
	total := 0.0
	for _, word := range words {
		unit, number := 1.0, word
		if word != "" {
			if found, ok := units[word[len(word)-1]]; ok {
				unit, number = found, word[:len(word)-1]
			}
		}
		value, err := strconv.ParseFloat(number, 64)
		if err != nil || value < 0 {
			c.say("invalid time '%s'", word)
			return usage
		}
		total += value * unit
	}
	select {
	case <-time.After(time.Duration(total * float64(time.Second))):
	case <-c.ctx.Done():
	}
	return 0
}

func date(c *call) int {
	set := c.flags()
	utc := set.BoolP("utc", "u", false, "UTC")
	given := set.StringP("date", "d", "", "show this time: @seconds or RFC 3339")
	iso := set.BoolP("iso", "I", false, "the date as ISO 8601 has it")
	rest := c.parse(set)
	c.need(rest, 0, 1)
	now := time.Now()
	if seconds, ok := strings.CutPrefix(*given, "@"); ok {
		number, err := strconv.ParseInt(seconds, 10, 64)
		if err != nil {
			c.say("invalid date '%s'", *given)
			return 1
		}
		now = time.Unix(number, 0)
	} else if *given != "" {
		parsed, err := time.Parse(time.RFC3339, *given)
		if err != nil {
			c.say("invalid date '%s'", *given)
			return 1
		}
		now = parsed
	}
	if *utc {
		now = now.UTC()
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	if *iso {
		format = "%Y-%m-%d"
	}
	if len(rest) > 0 {
		wanted, ok := strings.CutPrefix(rest[0], "+")
		if !ok {
			c.say("the clock can't be set from here")
			return 1
		}
		format = wanted
	}
	fmt.Fprintln(c.out, strftime(format, now))
	return 0
}

func strftime(format string, at time.Time) string {
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'h': "Jan", 'd': "02", 'e': "_2",
		'H': "15", 'I': "03", 'm': "01", 'M': "04", 'p': "PM", 'S': "05", 'y': "06", 'Y': "2006",
		'z': "-0700", 'Z': "MST", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06",
		'j': "002", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
	}
	var made strings.Builder
	for at_ := 0; at_ < len(format); at_++ {
		if format[at_] != '%' || at_+1 == len(format) {
			made.WriteByte(format[at_])
			continue
		}
		at_++
		switch kind := format[at_]; kind {
		case '%':
			made.WriteByte('%')
		case 'n':
			made.WriteByte('\n')
		case 't':
			made.WriteByte('\t')
		case 's':
			fmt.Fprint(&made, at.Unix())
		case 'N':
			fmt.Fprintf(&made, "%09d", at.Nanosecond())
		case 'u':
			fmt.Fprint(&made, (int(at.Weekday())+6)%7+1)
		case 'w':
			fmt.Fprint(&made, int(at.Weekday()))
		default:
			if layout, ok := layouts[kind]; ok {
				made.WriteString(at.Format(layout))
			} else {
				made.WriteString("%" + string(kind))
			}
		}
	}
	return made.String()
}
