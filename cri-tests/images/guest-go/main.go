// The Go guest: a WASI preview 1 program whose first argument says what to do. It has the same
// commands as the C guest, and is of the size that real programs have.
package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	verb := argument(1, "hello")
	if err := do(verb); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func do(verb string) error {
	switch verb {
	case "hello":
		return hello()
	case "exit":
		os.Exit(int(number(2)))
	case "spin":
		for {
		}
	case "sleep":
		time.Sleep(time.Duration(number(2)) * time.Second)
	case "count":
		for i := 0; ; i++ {
			fmt.Println("line", i)
			time.Sleep(time.Duration(number(2)) * time.Millisecond)
		}
	case "flood":
		return flood(number(2))
	case "echo":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "read":
		text, err := os.ReadFile(argument(2, ""))
		fmt.Print(string(text))
		return err
	case "time":
		fmt.Println("time", time.Now().Unix())
		// math/rand is seeded from WASI's random_get.
		fmt.Printf("random %016x\nrandom %016x\n", rand.Uint64(), rand.Uint64())
	case "write":
		return write(argument(2, ""), argument(3, ""))
	default:
		return fmt.Errorf("unknown command %s", verb)
	}
	return nil
}

func hello() error {
	fmt.Println("hello from Go in wasm")
	for i, arg := range os.Args {
		fmt.Printf("arg %d: %s\n", i, arg)
	}
	for _, entry := range os.Environ() {
		fmt.Println("env:", entry)
	}
	dir, err := os.Getwd()
	fmt.Println("cwd:", dir)
	return err
}

func flood(bytes int64) error {
	line := strings.Repeat("x", 4095) + "\n"
	out := bufio.NewWriter(os.Stdout)
	for sent := int64(0); sent < bytes; sent += int64(len(line)) {
		if _, err := out.WriteString(line); err != nil {
			return err
		}
	}
	return out.Flush()
}

func write(path, text string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(file, text); err != nil {
		return err
	}
	return file.Close()
}

func argument(index int, fallback string) string {
	if index < len(os.Args) {
		return os.Args[index]
	}
	return fallback
}

func number(index int) int64 {
	value, _ := strconv.ParseInt(argument(index, "0"), 10, 64)
	return value
}
