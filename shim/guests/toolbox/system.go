package main

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// What WASI has no words for: whose process this is and on what machine. The shim says it in an
// environment variable, one "name value" in each line; it is taken out of the environment.
const hostVariable = "COPEPOD_TOOLBOX"

var host struct {
	uid, gid, groups                            string
	hostname, system, release, version, machine string
	uidMap, gidMap                              string
	rights                                      map[string]string
	readOnly                                    map[string]bool // by mount
	terminal                                    bool
}

func readHost() {
	host.uid, host.gid, host.system, host.machine = "?", "?", "Linux", "wasm32"
	fields := map[string]*string{
		"uid": &host.uid, "gid": &host.gid, "groups": &host.groups, "hostname": &host.hostname,
		"system": &host.system, "release": &host.release, "version": &host.version,
		"machine": &host.machine, "uid_map": &host.uidMap, "gid_map": &host.gidMap,
	}
	host.rights, host.readOnly = map[string]string{}, map[string]bool{}
	for _, line := range strings.Split(os.Getenv(hostVariable), "\n") {
		name, value, _ := strings.Cut(line, " ")
		host.rights[name] = value
		if field, ok := fields[name]; ok {
			*field = value
		}
		switch name {
		case "terminal":
			host.terminal = value == "1"
		case "read_only", "writable":
			host.readOnly[path.Clean(value)] = name == "read_only"
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
