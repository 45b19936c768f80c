module copepod.dev/cri-tests/images/guest-http

go 1.21
