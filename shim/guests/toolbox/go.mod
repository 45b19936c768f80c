module copepod.dev/toolbox

go 1.21

require (
	github.com/spf13/pflag v1.0.5
	mvdan.cc/sh/v3 v3.8.0
)

require (
	golang.org/x/sync v0.6.0 // indirect
	golang.org/x/sys v0.17.0 // indirect
	golang.org/x/term v0.17.0 // indirect
)
