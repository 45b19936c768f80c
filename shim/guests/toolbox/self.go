package main

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// The lines of /proc/self/status (proc(5)) that the host tells of this process's rights.
var rights = []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}

// self gives what a file of /proc/self says, as far as the host has told it: the process itself
// is in no /proc that it sees, for through its memory a guest could reach the engine.
func self(name string) (io.ReadCloser, bool) {
	if host.uid == "?" {
		return nil, false
	}
	text := ""
	switch path.Clean(name) {
	case "/proc/self/status":
		text = status()
	case "/proc/self/uid_map":
		text = idMap(host.uidMap)
	case "/proc/self/gid_map":
		text = idMap(host.gidMap)
	}
	return io.NopCloser(strings.NewReader(text)), text != ""
}

func status() string {
	var made strings.Builder
	fmt.Fprintf(&made, "Uid:\t%[1]s\t%[1]s\t%[1]s\t%[1]s\n", host.uid)
	fmt.Fprintf(&made, "Gid:\t%[1]s\t%[1]s\t%[1]s\t%[1]s\n", host.gid)
	fmt.Fprintf(&made, "Groups:\t%s \n", host.groups)
	for _, name := range rights {
		fmt.Fprintf(&made, "%s:\t%s\n", name, host.rights[name])
	}
	return made.String()
}

// idMap writes "0 1000 65536, ..." as the kernel does (user_namespaces(7)).
func idMap(told string) string {
	var made strings.Builder
	for _, line := range strings.Split(told, ",") {
		if words := strings.Fields(line); len(words) == 3 {
			fmt.Fprintf(&made, "%10s %10s %10s\n", words[0], words[1], words[2])
		}
	}
	return made.String()
}

// readOnly tells whether the host has said so of the mount that a file is on.
func readOnly(file string) bool {
	for at := path.Clean(file); ; at = path.Dir(at) {
		if said, known := host.readOnly[at]; known || at == "/" || at == "." {
			return said
		}
	}
}
