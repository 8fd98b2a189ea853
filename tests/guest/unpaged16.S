/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ROM of hot loops without paging, in real mode and in 32-bit code: memory up to where RAM ends and
 * others begin, a map that changes under code that has run often, segment limits, watchpoints. Wants
 * 64 MiB. Prints and leaves as the other tiny guests do.
 */
    .code16
    .text
    .org 0

#define EXIT 0x501
#define HOT  2000
#define TOP  0x4000000     /* of RAM */
#define ROM  0xf0000       /* where this is */

#define APIC_BASE_MSR 0x1b
#define APIC_ENABLED  0x800
#define APIC_VERSION  0x30
#define PAM2          0x80000090 /* PAM0 to PAM3 */

/* Prints the case's name; bp counts its failures, cases that failed are counted at 0:600h. */
    .macro PASSED name
    mov $100f, %si
    call report
    jmp 101f
100: .asciz "\name"
101:
    .endm

/* Whatever is raised from here to CAUGHT is counted at 0:702h, and goes on at CAUGHT. */
    .macro CATCH
    movw $102f, %ss:0x700
    movw $0, %ss:0x702
    mov %sp, %ss:0x706
    .endm
    .macro CAUGHT
102:
    .endm

    .macro WANT_EQUAL
    je 103f
    inc %bp
103:
    .endm

start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
    movw $0, 0x600
    xor %di, %di
    mov $256, %cx
1:  movw $catch, (%di)
    movw %cs, 2(%di)
    add $4, %di
    loop 1b
    movw $watched, 4*1

    /* ---- 16-bit offsets at the end of a segment */
    mov $0x3000, %ax
    mov %ax, %ds
    movw $0x1234, 0xfffe
    movb $0x56, 0x100
    movb $0x99, %ds:0
    xor %bp, %bp
    xor %dx, %dx                  /* faults */
    mov $HOT, %cx
1:  mov $0xfffe, %bx
    test $1, %cl
    jz 2f
    inc %bx
2:  CATCH
    xor %ax, %ax
    mov (%bx), %ax                /* a word at fffeh, or at ffffh */
    CAUGHT
    mov $0x1234, %si
    test $1, %cl
    jz 3f
    xor %si, %si
    add %ss:0x702, %dx
3:  cmp %si, %ax
    WANT_EQUAL
    mov %bl, %ah
    mov (%bx), %al                /* a byte at ffffh is one */
    cmp $0xfe, %ah
    mov $0x34, %ah
    je 4f
    mov $0x12, %ah
4:  cmp %ah, %al
    WANT_EQUAL
    dec %cx
    jnz 1b
    cmp $(HOT / 2), %dx
    WANT_EQUAL
    PASSED "words at the end of 64 KiB fault"

    /* ---- what A20 decides */
    xor %ax, %ax
    mov %ax, %ds
    dec %ax
    mov %ax, %es
    movw $0x1111, 0x500
    movw $0x2222, %es:0x510       /* 100500h */
    xor %bp, %bp
    mov $HOT, %cx
1:  test $15, %cl                 /* on, off, on: the loop stays the same */
    jnz 2f
    in $0x92, %al
    xor $2, %al
    and $0xfe, %al
    out %al, $0x92
2:  mov $0x1111, %dx
    in $0x92, %al
    test $2, %al
    jz 3f
    mov $0x2222, %dx
3:  cmp %dx, %es:0x510
    WANT_EQUAL
    cmpw $0x1111, 0x500
    WANT_EQUAL
    dec %cx
    jnz 1b
    in $0x92, %al
    or $2, %al
    and $0xfe, %al
    out %al, $0x92
    xor %ax, %ax
    mov %ax, %es
    PASSED "A20 changes under a loop"

    /* ---- a watchpoint on what a loop has long read */
    movl $0x5a5a5a5a, 0x8000
    movw $0, 0x710
    xor %bp, %bp
    mov $HOT, %cx
1:  mov 0x8000, %eax
    cmp $0x5a5a5a5a, %eax
    WANT_EQUAL
    cmp $(HOT / 2), %cx
    jne 2f
    mov $0x8000, %eax
    mov %eax, %dr0
    mov $0x000f0001, %eax         /* four bytes, read and written */
    mov %eax, %dr7
2:  dec %cx
    jnz 1b
    xor %eax, %eax
    mov %eax, %dr7
    cmpw $(HOT / 2 - 1), 0x710
    WANT_EQUAL
    PASSED "a watchpoint is armed while a loop runs"

    /* ---- unreal mode: the limit is 4 GiB, and an offset of ffffh has a next byte */
    lgdtl %cs:gdt_ptr
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $0x10, %bx
    mov %bx, %ds
    and $0xfe, %al
    mov %eax, %cr0
    xor %ax, %ax
    mov %ax, %ds
    mov $0x200000, %ebx
    movl $0xcafe0001, (%ebx)
    movl $0x11223344, %ds:0x5000
    mov $0xffff, %esi
    movw $0x4321, (%esi)
    xor %bp, %bp
    mov $HOT, %cx
1:  mov $0x11223344, %edx
    mov $0x5000, %ebx
    test $1, %cl
    jz 2f
    mov $0xcafe0001, %edx
    mov $0x200000, %ebx
2:  cmp %edx, (%ebx)              /* far below 1 MiB, or above */
    WANT_EQUAL
    mov $0xffff, %di
    cmpw $0x4321, (%di)
    WANT_EQUAL
    dec %cx
    jnz 1b
    PASSED "unreal mode below and above 1 MiB"

    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x08, $(pm32 + ROM)

/* Any vector but #DB, which is for the watchpoint. */
catch:
    incw %ss:0x702
    mov %ss:0x706, %sp
    jmp *%ss:0x700
watched:
    incw %ss:0x710
    push %eax
    xor %eax, %eax
    mov %eax, %dr6
    pop %eax
    iret

/* cs:si is the name; bp says whether the case passed. */
report:
    push %ds
    pusha
    xor %ax, %ax
    mov %ax, %ds
    mov $ok_text, %di
    test %bp, %bp
    jz 1f
    incw 0x600
    mov $fail_text, %di
1:  xchg %si, %di
    call print
    mov %di, %si
    call print
    mov $10, %al
    out %al, $0xe9
    popa
    pop %ds
    ret
print:
1:  mov %cs:(%si), %al
    inc %si
    test %al, %al
    jz 2f
    out %al, $0xe9
    jmp 1b
2:  ret

ok_text:   .asciz "ok "
fail_text: .asciz "FAIL "

/* ---- 32-bit code ------------------------------------------------------------------------------- */

    .code32
    .macro PASSED32 name
    mov $(100f + ROM), %esi
    call report32
    jmp 101f
100: .asciz "\name"
101:
    .endm
    .macro WANT_EQUAL32
    je 103f
    inc %ebp
103:
    .endm

/* Fills [eax, ecx) with bytes that have the low byte of their address, inverted. */
fill:
    mov %al, %dl
    not %dl
    mov %dl, (%eax)
    inc %eax
    cmp %ecx, %eax
    jne fill
    ret

/* The dword at ebx, by one instruction for all of a case, which takes the run of its first address. */
    .macro LOAD name
    .balign 64, 0x90
\name:
    mov (%ebx), %eax
    ret
    .endm
    LOAD load_low
    LOAD load_mib
    LOAD load_top
    LOAD load_4g
    LOAD load_device
    LOAD load_apic
    LOAD load_pam

pm32:
    mov $0x10, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %esp

    mov $0x9fe00, %eax
    mov $0xa0000, %ecx
    call fill
    mov $0x100000, %eax
    mov $0x100400, %ecx
    call fill
    mov $(TOP - 0x200), %eax
    mov $TOP, %ecx
    call fill

    /* ---- up to 640 KiB; of a dword that ends behind, the first byte is RAM's */
    xor %ebp, %ebp
    mov $8, %edi
1:  mov $0x9fe00, %ebx
2:  call load_low
    not %eax
    cmp %bl, %al
    WANT_EQUAL32
    cmp $0x9fffc, %ebx
    ja 3f
    shr $24, %eax
    lea 3(%ebx), %edx
    cmp %dl, %al
    WANT_EQUAL32
3:  inc %ebx
    cmp $0xa0000, %ebx
    jne 2b
    call load_low
    dec %edi
    jnz 1b
    PASSED32 "loads up to 640 KiB"

    /* ---- across 1 MiB: this ROM's last bytes are 0 */
    xor %ebp, %ebp
    mov $HOT, %edi
1:  mov $0xffffc, %ebx
    call load_mib
    cmp $0, %eax
    WANT_EQUAL32
    mov $0xffffe, %ebx
    call load_mib
    cmp $0xfeff0000, %eax         /* of 100000h and 100001h */
    WANT_EQUAL32
    mov $0xfffff, %ebx
    call load_mib
    cmp $0xfdfeff00, %eax
    WANT_EQUAL32
    mov $0x100000, %ebx
    call load_mib
    cmp $0xfcfdfeff, %eax
    WANT_EQUAL32
    dec %edi
    jnz 1b
    PASSED32 "loads across 1 MiB"

    /* ---- at the top of RAM, with nothing behind */
    xor %ebp, %ebp
    mov $HOT, %edi
1:  mov $(TOP - 0x104), %ebx
    call load_top
    cmp $0x00010203, %eax
    WANT_EQUAL32
    mov $(TOP - 4), %ebx
    call load_top
    cmp $0x00010203, %eax
    WANT_EQUAL32
    mov $(TOP - 2), %ebx
    call load_top
    cmp $0xffff0001, %eax
    WANT_EQUAL32
    mov $TOP, %ebx
    call load_top
    cmp $-1, %eax
    WANT_EQUAL32
    dec %edi
    jnz 1b
    PASSED32 "loads at the top of RAM"

    /* ---- at 4 GiB: four bytes of the firmware there, and the first ones of all */
    mov $0xfffffffe, %ebx
    mov (%ebx), %edx
    mov 0, %ecx
    xor %ebp, %ebp
    mov $HOT, %edi
1:  mov $0xfffffffe, %ebx
    call load_4g
    cmp %edx, %eax
    WANT_EQUAL32
    xor %ebx, %ebx
    call load_4g
    cmp %ecx, %eax
    WANT_EQUAL32
    dec %edi
    jnz 1b
    PASSED32 "loads around 4 GiB"

    /* ---- a device and RAM by the same instruction */
    mov $(0xfee00000 + APIC_VERSION), %ebx
    mov (%ebx), %edx
    xor %ebp, %ebp
    cmp $-1, %edx
    jne 1f
    inc %ebp
1:  mov $HOT, %edi
1:  mov $(0xfee00000 + APIC_VERSION), %ebx
    call load_device
    cmp %edx, %eax
    WANT_EQUAL32
    mov $0x100000, %ebx
    call load_device
    cmp $0xfcfdfeff, %eax
    WANT_EQUAL32
    dec %edi
    jnz 1b
    PASSED32 "a device and RAM by one instruction"

    /* ---- the local APIC moves over RAM and back, while a loop reads there */
    movl $0x600df00d, 0x300000 + APIC_VERSION
    movl $0x600df00d, 0x301000
    movl $0x600df00d, 0x2ffffc
    mov %edx, 0x5100
    xor %ebp, %ebp
    mov $HOT, %edi
1:  test $15, %edi
    jnz 2f
    mov $APIC_BASE_MSR, %ecx
    rdmsr
    xor $(0xfee00000 ^ 0x300000), %eax
    wrmsr
2:  mov $APIC_BASE_MSR, %ecx
    rdmsr
    mov $0x600df00d, %edx
    test $0xc0000000, %eax
    jnz 3f
    mov 0x5100, %edx
3:  mov $(0x300000 + APIC_VERSION), %ebx
    call load_apic
    cmp %edx, %eax
    WANT_EQUAL32
    mov $0x301000, %ebx
    call load_apic
    cmp $0x600df00d, %eax
    WANT_EQUAL32
    mov $0x2ffffc, %ebx
    call load_apic
    cmp $0x600df00d, %eax
    WANT_EQUAL32
    dec %edi
    jnz 1b
    mov $APIC_BASE_MSR, %ecx
    rdmsr
    and $0xfff, %eax
    or $0xfee00000, %eax
    wrmsr
    PASSED32 "the local APIC moves over RAM"

    /* ---- PAM: C8000h is RAM, or nothing */
    mov $0xcf8, %dx
    mov $PAM2, %eax
    out %eax, %dx
    mov $0xcfe, %dx               /* PAM2 */
    in %dx, %al
    or $3, %al
    out %al, %dx
    movl $0x12345678, 0xc8000
    xor %ebp, %ebp
    mov $HOT, %edi
1:  test $15, %edi
    jnz 2f
    mov $0xcfe, %dx
    in %dx, %al
    xor $3, %al
    out %al, %dx
2:  mov $0xcfe, %dx
    in %dx, %al
    mov $-1, %ecx
    test $1, %al
    jz 3f
    mov $0x12345678, %ecx
3:  mov $0xc8000, %ebx
    call load_pam
    cmp %ecx, %eax
    WANT_EQUAL32
    mov $0x100000, %ebx
    call load_pam
    cmp $0xfcfdfeff, %eax
    WANT_EQUAL32
    dec %edi
    jnz 1b
    PASSED32 "PAM changes under a loop"

    /* ---- code that reads and writes itself */
    mov $(changing + ROM), %esi
    mov $0x8000, %edi
    mov $(changing_end - changing), %ecx
    rep movsb
    xor %ebp, %ebp
    mov $HOT, %edi
1:  mov %edi, %ecx
    mov $0x8000, %eax
    call *%eax
    cmp %edi, %eax
    WANT_EQUAL32
    cmp %edi, 0x8000 + (changed - changing) + 1
    WANT_EQUAL32
    dec %edi
    jnz 1b
    PASSED32 "code that changes itself"

    mov 0x600, %ax
    add $0x10, %ax
    cmp $0x10, %ax
    je 1f
    mov $0x11, %ax
1:  mov $EXIT, %dx
    out %al, %dx
2:  hlt
    jmp 2b

changing:
    mov %ecx, 0x8000 + (changed - changing) + 1
changed:
    mov $0, %eax
    ret
changing_end:

report32:
    pusha
    mov $(ok_text + ROM), %edi
    test %ebp, %ebp
    jz 1f
    incw 0x600
    mov $(fail_text + ROM), %edi
1:  xchg %esi, %edi
    call print32
    mov %edi, %esi
    call print32
    mov $10, %al
    out %al, $0xe9
    popa
    ret
print32:
1:  mov (%esi), %al
    inc %esi
    test %al, %al
    jz 2f
    out %al, $0xe9
    jmp 1b
2:  ret

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff     /* 08: 32-bit code, flat */
    .quad 0x00cf93000000ffff     /* 10: 4 GiB data */
gdt_ptr:
    .word gdt_ptr - gdt - 1
    .long ROM + gdt

    .org 0xfff0
    .code16
    ljmp $0xf000, $start
    .org 0xffff
    .byte 0
