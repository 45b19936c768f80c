// The sandbox's process on x86_64: see pause.py. SIGTERM, SIGINT and SIGCHLD are blocked already.
	.intel_syntax noprefix
	mov eax, 157             // prctl(PR_SET_DUMPABLE, 0): nobody in the pod may look into it
	mov edi, 4
	xor esi, esi
	syscall
	mov eax, 157             // prctl(PR_SET_NAME, name)
	mov edi, 15
	lea rsi, [rip + name]
	syscall
wait:
	mov eax, 128             // rt_sigtimedwait(signals, NULL, NULL, 8)
	lea rdi, [rip + signals]
	xor esi, esi
	xor edx, edx
	mov r10d, 8
	syscall
	cmp eax, 17              // SIGCHLD
	je reap
	cmp eax, -4              // EINTR
	je wait
	test eax, eax            // a seccomp profile that forbids it: wait for SIGKILL, but never spin
	js denied
	mov eax, 231             // exit_group(0)
	xor edi, edi
	syscall
denied:
	mov eax, 34              // pause()
	syscall
	cmp eax, -4
	je denied
	mov eax, 231             // exit_group(1)
	mov edi, 1
	syscall
reap:
	mov eax, 61              // wait4(-1, NULL, WNOHANG, NULL), until there is no more
	mov rdi, -1
	xor esi, esi
	mov edx, 1
	xor r10d, r10d
	syscall
	test eax, eax
	jg reap
	jmp wait
	.balign 8
signals:
	.quad 1 << (2 - 1) | 1 << (15 - 1) | 1 << (17 - 1)
name:
	.asciz "copepod-pause"
