// The sandbox's process on aarch64: see pause.py. SIGTERM, SIGINT and SIGCHLD are blocked already.
	mov x8, 167              // prctl(PR_SET_DUMPABLE, 0): nobody in the pod may look into it
	mov x0, 4
	mov x1, 0
	svc 0
	mov x8, 167              // prctl(PR_SET_NAME, name)
	mov x0, 15
	adr x1, name
	svc 0
wait:
	mov x8, 137              // rt_sigtimedwait(signals, NULL, NULL, 8)
	adr x0, signals
	mov x1, 0
	mov x2, 0
	mov x3, 8
	svc 0
	cmp w0, 17               // SIGCHLD
	b.eq reap
	cmn w0, 4                // EINTR
	b.eq wait
	cmp w0, 0                // a seccomp profile that forbids it: wait for SIGKILL, but never spin
	b.lt denied
	mov x8, 94               // exit_group(0)
	mov x0, 0
	svc 0
denied:
	mov x8, 73               // ppoll(NULL, 0, NULL, NULL, 8)
	mov x0, 0
	mov x1, 0
	mov x2, 0
	mov x3, 0
	mov x4, 8
	svc 0
	cmn w0, 4
	b.eq denied
	mov x8, 94               // exit_group(1)
	mov x0, 1
	svc 0
reap:
	mov x8, 260              // wait4(-1, NULL, WNOHANG, NULL), until there is no more
	mov x0, -1
	mov x1, 0
	mov x2, 1
	mov x3, 0
	svc 0
	cmp w0, 0
	b.gt reap
	b wait
	.balign 8
signals:
	.quad 1 << (2 - 1) | 1 << (15 - 1) | 1 << (17 - 1)
name:
	.asciz "copepod-pause"
