/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start of a tiny guest: a multiboot 1 header with load addresses (any linker output will do), a GDT, a
 * stack, and for 64-bit guests the first 4 GiB identity-mapped by 2 MiB pages. Then rt_main.
 */
#define MAGIC 0x1badb002
#define FLAGS 0x00010003

    .section .mb, "ax"
    .balign 4
mb: .long MAGIC, FLAGS, -(MAGIC + FLAGS)
    .long mb, image_start, image_data_end, image_bss_end, start

    .text
    .code32
    .global start
start:
    cli
    cld
    mov $stack_top, %esp
    mov %eax, boot_magic
    mov %ebx, boot_info
    lgdt gdt_ptr
#ifdef __x86_64__
    mov $pml4, %edi
    movl $pdpt + 7, (%edi)
    mov $pdpt, %edi
    movl $pd + 7, (%edi)
    movl $pd + 0x1007, 8(%edi)
    movl $pd + 0x2007, 16(%edi)
    movl $pd + 0x3007, 24(%edi)
    mov $pd, %edi
    mov $0x87, %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax          /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax          /* NXE, LME, SCE */
    wrmsr
    mov $0x80010023, %eax    /* PG, WP, NE, MP, PE */
    mov %eax, %cr0
    ljmp $0x08, $1f
    .code64
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_top, %rsp
    call rt_main
#else
    ljmp $0x08, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    call rt_main
#endif
2:  hlt
    jmp 2b

/* ---- trap entries: 256 stubs of 16 bytes ------------------------------------------------------ */

    .balign 16
    .global stubs
stubs:
    .set v, 0
    .rept 256
    .balign 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17)
    push $0
    .endif
#ifdef __x86_64__
    pushq $v
#else
    pushl $v
#endif
    jmp common
    .set v, v + 1
    .endr

common:
#ifdef __x86_64__
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    cld
    mov %rsp, %rbx
    and $-16, %rsp
    call rt_trap
    mov %rbx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

/* rt_resume(ip, sp): back to ring 0 code at ip with flags 2 and the kernel's data segments. */
    .global rt_resume
rt_resume:
    mov %rsi, %rsp
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    push $2
    popf
    jmp *%rdi

/* rt_enter_user(fn, stack) */
    .global rt_enter_user
rt_enter_user:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, user_return_sp(%rip)
    lea 1f(%rip), %rax
    mov %rax, user_return(%rip)
    push $0x23
    push %rsi
    push $2
    push $0x2b
    push %rdi
    iretq
1:  pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
#else
    push %eax
    push %ecx
    push %edx
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov %esp, %ebx
    push %ds
    push %es
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    cld
    push %ebx
    call rt_trap
    pop %ebx
    pop %es
    pop %ds
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    pop %edx
    pop %ecx
    pop %eax
    add $8, %esp
    iret

    .global rt_resume
rt_resume:
    mov 4(%esp), %ecx
    mov 8(%esp), %esp
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    push $2
    popf
    jmp *%ecx

    .global rt_enter_user
rt_enter_user:
    mov 4(%esp), %ecx
    mov 8(%esp), %edx
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov %esp, user_return_sp
    movl $1f, user_return
    mov $0x23, %eax
    mov %eax, %ds
    mov %eax, %es
    push $0x23
    push %edx
    push $2
    push $0x2b
    push %ecx
    iret
1:  pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret
#endif

    .data
    .balign 16
    .global gdt
gdt:
    .quad 0
#ifdef __x86_64__
    .quad 0x00af9b000000ffff
#else
    .quad 0x00cf9b000000ffff
#endif
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cff3000000ffff
#ifdef __x86_64__
    .quad 0x00affb000000ffff
#else
    .quad 0x00cffb000000ffff
#endif
    .quad 0x00cffb000000ffff
    .fill 25, 8, 0
    .global gdt_ptr
gdt_ptr:
    .word 32 * 8 - 1
    .long gdt, 0

    .global boot_magic, boot_info
boot_magic: .long 0
boot_info:  .long 0

    .bss
    .balign 4096
    .global pml4
pml4: .skip 4096
pdpt: .skip 4096
pd:   .skip 4 * 4096
      .skip 65536
stack_top:
