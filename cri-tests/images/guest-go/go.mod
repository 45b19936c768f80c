module copepod.dev/cri-tests/images/guest-go

go 1.21
