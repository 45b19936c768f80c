// The Go guest of the engine's tests: each word of the command line is one thing to do.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

func main() {
	for _, word := range os.Args[1:] {
		what, value, _ := strings.Cut(word, "=")
		switch what {
		case "args":
			fmt.Println("args", strings.Join(os.Args, "|"))
		case "env":
			fmt.Println("env", strings.Join(os.Environ(), "|"))
		case "cwd":
			dir, err := os.Getwd()
			fmt.Println("cwd", dir, err)
		case "cat":
			data, err := os.ReadFile(value)
			fmt.Printf("cat %q %v\n", data, err)
		case "write":
			fmt.Println("write", os.WriteFile(value, []byte("written\n"), 0o644))
		case "ls":
			entries, err := os.ReadDir(value)
			names := []string{}
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			fmt.Println("ls", strings.Join(names, " "), err)
		case "stdin":
			data, err := io.ReadAll(bufio.NewReader(os.Stdin))
			fmt.Printf("stdin %q %v\n", data, err)
		case "stderr":
			fmt.Fprint(os.Stderr, value)
		case "bare":
			fmt.Print(value)
		case "exit":
			code, _ := strconv.Atoi(value)
			os.Exit(code)
		case "panic":
			panic(value)
		case "recurse":
			fmt.Println(recurse(1))
		case "fill":
			for kept := [][]byte{}; ; {
				kept = append(kept, make([]byte, 1<<20))
			}
		case "big":
			size, _ := strconv.Atoi(value)
			os.Stdout.Write([]byte(strings.Repeat("x", size)))
		}
	}
}

func recurse(depth int) int { return recurse(depth+1) + depth }
