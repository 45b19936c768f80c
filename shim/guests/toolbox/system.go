package main

import (
	"fmt"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"
)

// What WASI has no words for: whose process this is and on what machine. The shim says it in an
// environment variable, one "name value" in each line; it is taken out of the environment.
const hostVariable = "COPEPOD_TOOLBOX"

var host struct {
	uid, gid, groups                            string
	hostname, system, release, version, machine string
	terminal                                    bool
}

func readHost() {
	host.uid, host.gid, host.system, host.machine = "?", "?", "Linux", "wasm32"
	fields := map[string]*string{
		"uid": &host.uid, "gid": &host.gid, "groups": &host.groups, "hostname": &host.hostname,
		"system": &host.system, "release": &host.release, "version": &host.version,
		"machine": &host.machine,
	}
	for _, line := range strings.Split(os.Getenv(hostVariable), "\n") {
		name, value, _ := strings.Cut(line, " ")
		if field, ok := fields[name]; ok {
			*field = value
		}
		if name == "terminal" {
			host.terminal = value == "1"
		}
	}
	os.Unsetenv(hostVariable)
	if host.hostname == "" {
		host.hostname = firstLine("/proc/sys/kernel/hostname", "/etc/hostname")
	}
}

func firstLine(files ...string) string {
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			line, _, _ := strings.Cut(string(data), "\n")
			return line
		}
	}
	return ""
}

// entry gives the name that a file like /etc/passwd has for a number, "" if it has none.
func entry(file, number string) string {
	data, _ := os.ReadFile(file)
	for _, line := range strings.Split(string(data), "\n") {
		fields := strings.Split(line, ":")
		if len(fields) > 2 && fields[2] == number {
			return fields[0]
		}
	}
	return ""
}

func id(c *call) int {
	set := c.flags()
	user := set.BoolP("user", "u", false, "the user alone")
	group := set.BoolP("group", "g", false, "the group alone")
	groups := set.BoolP("groups", "G", false, "all groups")
	name := set.BoolP("name", "n", false, "the name, not the number")
	set.BoolP("real", "r", false, "ignored: real and effective are the same")
	c.need(c.parse(set), 0, 0)
	if host.uid == "?" {
		c.say("the host has not said whose process this is")
		return c.status
	}
	all := []string{host.gid}
	for _, one := range strings.Fields(host.groups) {
		if one != host.gid {
			all = append(all, one)
		}
	}
	plain := func(file, number string) string {
		if known := entry(file, number); *name && known != "" {
			return known
		}
		return number
	}
	both := func(file, number string) string {
		if known := entry(file, number); known != "" {
			return number + "(" + known + ")"
		}
		return number
	}
	list := func(show func(file, number string) string, with string) string {
		shown := make([]string, len(all))
		for at, one := range all {
			shown[at] = show("/etc/group", one)
		}
		return strings.Join(shown, with)
	}
	switch {
	case *user:
		fmt.Fprintln(c.out, plain("/etc/passwd", host.uid))
	case *group:
		fmt.Fprintln(c.out, plain("/etc/group", host.gid))
	case *groups:
		fmt.Fprintln(c.out, list(plain, " "))
	default:
		fmt.Fprintf(c.out, "uid=%s gid=%s groups=%s\n",
			both("/etc/passwd", host.uid), both("/etc/group", host.gid), list(both, ","))
	}
	return 0
}

func whoami(c *call) int {
	c.need(c.parse(c.flags()), 0, 0)
	if known := entry("/etc/passwd", host.uid); known != "" {
		fmt.Fprintln(c.out, known)
		return 0
	}
	c.say("no name for user %s in /etc/passwd", host.uid)
	return 1
}

func hostname(c *call) int {
	set := c.flags()
	short := set.BoolP("short", "s", false, "up to the first dot")
	c.need(c.parse(set), 0, 0)
	name := host.hostname
	if *short {
		name, _, _ = strings.Cut(name, ".")
	}
	fmt.Fprintln(c.out, name)
	return 0
}

func uname(c *call) int {
	set := c.flags()
	all := set.BoolP("all", "a", false, "everything")
	wanted := []struct {
		on    *bool
		value string
	}{
		{set.BoolP("kernel-name", "s", false, "the system"), host.system},
		{set.BoolP("nodename", "n", false, "the host name"), host.hostname},
		{set.BoolP("kernel-release", "r", false, "the release"), host.release},
		{set.BoolP("kernel-version", "v", false, "the version"), host.version},
		{set.BoolP("machine", "m", false, "the machine"), host.machine},
	}
	c.need(c.parse(set), 0, 0)
	var words []string
	for _, one := range wanted {
		if *one.on || *all {
			words = append(words, one.value)
		}
	}
	if len(words) == 0 {
		words = []string{host.system}
	}
	fmt.Fprintln(c.out, strings.Join(words, " "))
	return 0
}

func env(c *call) int {
	set := c.flags()
	set.SetInterspersed(false)
	empty := set.BoolP("ignore-environment", "i", false, "begin with nothing")
	unset := set.StringArrayP("unset", "u", nil, "leave a variable out")
	rest := c.parse(set)
	environ := c.environ
	if *empty {
		environ = nil
	}
	without := func(name string) {
		var kept []string
		for _, word := range environ {
			if !strings.HasPrefix(word, name+"=") {
				kept = append(kept, word)
			}
		}
		environ = kept
	}
	for _, name := range *unset {
		without(name)
	}
	for len(rest) > 0 && strings.Contains(rest[0], "=") {
		name, _, _ := strings.Cut(rest[0], "=")
		without(name)
		environ = append(environ, rest[0])
		rest = rest[1:]
	}
	if len(rest) > 0 {
		inner := *c
		inner.args, inner.environ, inner.status = rest, environ, 0
		return run(&inner)
	}
	for _, word := range environ {
		fmt.Fprintln(c.out, word)
	}
	return 0
}

func printenv(c *call) int {
	wanted := c.parse(c.flags())
	if len(wanted) == 0 {
		for _, word := range c.environ {
			fmt.Fprintln(c.out, word)
		}
	}
	for _, name := range wanted {
		found := false
		for _, word := range c.environ {
			if value, ok := strings.CutPrefix(word, name+"="); ok {
				fmt.Fprintln(c.out, value)
				found = true
			}
		}
		if !found {
			c.status = 1
		}
	}
	return c.status
}

func which(c *call) int {
	wanted := c.parse(c.flags())
	for _, name := range wanted {
		if _, known := tools[name]; !known {
			c.status = 1
			continue
		}
		fmt.Fprintln(c.out, name)
	}
	return c.status
}

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

type process struct {
	pid, parent        int
	state, name, owner string
	ticks, kilobytes   int64
}

// ps shows what /proc shows: the container's processes, without this one.
func ps(c *call) int {
	set := c.flags()
	set.BoolP("all", "e", false, "ignored: all are shown")
	set.BoolP("any", "A", false, "ignored: all are shown")
	set.BoolP("full", "f", false, "ignored")
	set.BoolP("long", "l", false, "ignored")
	set.BoolP("wide", "w", false, "ignored")
	set.StringP("format", "o", "", "ignored")
	c.parse(set)
	names, err := os.ReadDir("/proc")
	if err != nil {
		c.failed("/proc", err)
		return c.status
	}
	var found []process
	for _, one := range names {
		pid, err := strconv.Atoi(one.Name())
		if err != nil {
			continue
		}
		if read, ok := readProcess(pid); ok {
			found = append(found, read)
		}
	}
	if len(found) == 0 {
		c.say("/proc shows no processes here")
		return c.status
	}
	sort.Slice(found, func(a, b int) bool { return found[a].pid < found[b].pid })
	fmt.Fprintf(c.out, "%5s %5s %-8s %s %8s %8s %s\n", "PID", "PPID", "USER", "S", "RSS", "TIME", "COMMAND")
	for _, one := range found {
		seconds := one.ticks / 100
		fmt.Fprintf(c.out, "%5d %5d %-8s %s %7dk %5d:%02d %s\n",
			one.pid, one.parent, one.owner, one.state, one.kilobytes, seconds/60, seconds%60, one.name)
	}
	return c.status
}

// readProcess reads /proc/<pid>/stat, status and cmdline: proc(5).
func readProcess(pid int) (process, bool) {
	found := process{pid: pid}
	folder := path.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(folder + "/stat")
	if err != nil {
		return found, false
	}
	text := string(stat)
	open, shut := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return found, false
	}
	fields := strings.Fields(text[shut+1:])
	if len(fields) < 22 {
		return found, false
	}
	found.state = fields[0]
	found.parent, _ = strconv.Atoi(fields[1])
	for _, ticks := range fields[11:13] { // utime, stime
		number, _ := strconv.ParseInt(ticks, 10, 64)
		found.ticks += number
	}
	status, _ := os.ReadFile(folder + "/status")
	for _, line := range strings.Split(string(status), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) > 1 && words[0] == "VmRSS:":
			found.kilobytes, _ = strconv.ParseInt(words[1], 10, 64)
		case len(words) > 1 && words[0] == "Uid:":
			found.owner = words[1]
			if known := entry("/etc/passwd", words[1]); known != "" {
				found.owner = known
			}
		}
	}
	line, _ := os.ReadFile(folder + "/cmdline")
	found.name = strings.TrimSpace(strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " "))
	if found.name == "" {
		found.name = "[" + text[open+1:shut] + "]"
	}
	return found, true
}
