// The child of procfs.py on x86_64: fn(rdi) of clone(2), with the parent's memory and files.
	.intel_syntax noprefix
	mov rbx, rdi             // where the result goes
	lea rdi, [rip + name]
	mov esi, 1               // fsopen("proc", FSOPEN_CLOEXEC)
	mov eax, 430
	syscall
	mov [rbx], rax
	xor edi, edi             // exit(0)
	mov eax, 60
	syscall
name:
	.asciz "proc"
