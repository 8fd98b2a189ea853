/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 64 KiB ROM, started at the reset vector: real mode, its limits and interrupts, A20, unreal mode,
 * 16-bit protected mode and back. Prints and leaves as the other tiny guests do.
 */
    .code16
    .text
    .org 0

#define EXIT 0x501

/* Checks ax against a value and prints the case's name; failures are counted at 0:600h. */
    .macro EXPECT_AX want, name
    cmp $\want, %ax
    mov $100f, %si
    call report
    jmp 101f
100: .asciz "\name"
101:
    .endm

    .macro CATCH vec /* the vector expected, for the reader: all lead here */
    movw $102f, 0x700
    movw $0, 0x704
    movw $0, 0x702
    mov %sp, 0x706
    .endm

    .macro CAUGHT
102:
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
    /* IVT: every vector goes to catch. */
    xor %di, %di
    mov $256, %cx
1:  movw $catch, (%di)
    movw %cs, 2(%di)
    add $4, %di
    loop 1b

    /* ---- where the reset vector is */
    mov %cs, %ax
    EXPECT_AX 0xf000, "far jump reloads CS"

    /* ---- interrupts */
    movw $int21, 4*0x21
    mov $0x1234, %bx
    pushf
    pop %cx
    int $0x21
    mov %bx, %ax
    EXPECT_AX 0x5678, "INT n and IRET"
    pushf
    pop %ax
    xor %cx, %ax
    and $0x0ed5, %ax
    EXPECT_AX 0, "IRET restores the flags"

    CATCH 0
    xor %cx, %cx
    mov $1, %ax
    xor %dx, %dx
10: div %cx
    CAUGHT
    mov 0x702, %ax
    sub $10b, %ax
    EXPECT_AX 0, "#DE saves the faulting IP"

    CATCH 4
    mov $0x7fff, %ax
    inc %ax
    into
11: nop
    CAUGHT
    mov 0x702, %ax
    sub $11b, %ax
    EXPECT_AX 0, "INTO saves the next IP"

    CATCH 5
    movw $5, 0x710
    movw $10, 0x712
    mov $11, %ax
12: bound %ax, 0x710
    CAUGHT
    mov 0x702, %ax
    sub $12b, %ax
    EXPECT_AX 0, "BOUND"

    CATCH 6
13: ud2
    CAUGHT
    mov 0x702, %ax
    sub $13b, %ax
    EXPECT_AX 0, "#UD"

    CATCH 6
14: .byte 0x0f, 0x00, 0xc0   /* sldt %ax: not in real mode */
    CAUGHT
    mov 0x702, %ax
    sub $14b, %ax
    EXPECT_AX 0, "SLDT is #UD in real mode"

    CATCH 13
15: mov 0xffff, %ax
    CAUGHT
    mov 0x702, %ax
    sub $15b, %ax
    EXPECT_AX 0, "word at FFFFh is #GP"

    CATCH 12
    mov $0xffff, %bp
16: mov (%bp), %ax
    CAUGHT
    mov 0x702, %ax
    sub $16b, %ax
    EXPECT_AX 0, "word at SS:FFFFh is #SS"

    CATCH 13
    mov $0x10000, %ebx
17: mov %ds:(%ebx), %al
    CAUGHT
    mov 0x702, %ax
    sub $17b, %ax
    EXPECT_AX 0, "beyond 64 KiB is #GP"

    /* ---- addresses */
    movb $0x5a, 0x720
    mov $0xfff0, %bx
    mov $0x730, %si
    mov (%bx,%si), %al
    xor %ah, %ah
    EXPECT_AX 0x5a, "16-bit addresses wrap"

    movl $0x12345678, 0x724
    mov $0x700, %ebx
    mov $0x9, %ecx
    mov (%ebx,%ecx,4), %eax
    shr $16, %eax
    EXPECT_AX 0x1234, "32-bit operand and address in real mode"

    /* ---- strings across the end of the segment */
    movb $0x11, 0xffff
    movb $0x22, 0
    mov $0xffff, %si
    mov $0x740, %di
    mov $2, %cx
    rep movsb
    mov %si, %bp
    mov 0x740, %ax
    EXPECT_AX 0x2211, "REP MOVSB wraps SI at 64 KiB"
    mov %bp, %ax
    EXPECT_AX 1, "SI after the wrap"
    movw $catch, 0

    /* ---- stack instructions */
    mov $0x1111, %ax
    mov $0x2222, %bx
    pusha
    xor %ax, %ax
    xor %bx, %bx
    popa
    add %bx, %ax
    EXPECT_AX 0x3333, "PUSHA and POPA"
    mov %sp, %cx
    push %sp
    pop %ax
    sub %cx, %ax
    EXPECT_AX 0, "PUSH SP stores the old value"
    mov %sp, %cx
    mov $0x4321, %bp
    enter $8, $0
    mov %cx, %ax
    sub %sp, %ax
    leave
    EXPECT_AX 10, "ENTER"
    mov %bp, %ax
    EXPECT_AX 0x4321, "LEAVE"

    /* ---- decimal arithmetic */
    mov $0x79, %al
    add $0x35, %al
    daa
    mov $0, %ah
    adc $0, %ah
    EXPECT_AX 0x0114, "DAA"
    mov $0x35, %al
    sub $0x47, %al
    das
    mov $0, %ah
    EXPECT_AX 0x88, "DAS"
    mov $0x0306, %ax
    add $7, %al
    aaa
    EXPECT_AX 0x0403, "AAA"
    mov $63, %al
    aam
    EXPECT_AX 0x0603, "AAM"
    aad
    EXPECT_AX 63, "AAD"

    /* ---- A20 through port 92h */
    mov $0xffff, %ax
    mov %ax, %es
    movb $1, 0x500
    in $0x92, %al
    and $0xfc, %al
    out %al, $0x92
    movb $2, %es:0x510
    mov 0x500, %al
    xor %ah, %ah
    EXPECT_AX 2, "A20 off: FFFF:0510 is 0:0500"
    in $0x92, %al
    or $2, %al
    and $0xfe, %al
    out %al, $0x92
    movb $3, %es:0x510
    mov 0x500, %al
    xor %ah, %ah
    EXPECT_AX 2, "A20 on: it is not"

    /* ---- the last one to write decides, whichever way it took */
    mov $0xdd, %al               /* keyboard controller: A20 off */
    out %al, $0x64
    in $0x92, %al
    and $2, %ax
    EXPECT_AX 0, "port 92h shows what the keyboard controller did"
    in $0x92, %al
    or $2, %al
    and $0xfe, %al
    out %al, $0x92
    movb $4, %es:0x510
    mov 0x500, %al
    xor %ah, %ah
    EXPECT_AX 2, "A20 off by 64h, on by 92h"
    mov $0xdf, %al               /* and on */
    out %al, $0x64
    in $0x92, %al
    and $0xfc, %al
    out %al, $0x92
    movb $5, %es:0x510
    mov 0x500, %al
    xor %ah, %ah
    EXPECT_AX 5, "A20 on by 64h, off by 92h"
    mov $0xdf, %al
    out %al, $0x64
    movb $6, %es:0x510
    mov 0x500, %al
    xor %ah, %ah
    EXPECT_AX 5, "A20 off by 92h, on by 64h"
    xor %ax, %ax
    mov %ax, %es

    /* ---- protected mode and back, unreal mode */
    lgdtl %cs:gdt_ptr
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $0x10, %bx
    mov %bx, %ds
    and $0xfe, %al
    mov %eax, %cr0
    xor %bx, %bx
    movl $0xcafe0001, %eax
    mov $0x200000, %ebx
    mov %eax, (%ebx)
    xor %eax, %eax
    mov (%ebx), %eax
    shr $16, %eax
    EXPECT_AX 0xcafe, "unreal mode keeps the 4 GiB limit"
    xor %ax, %ax
    mov %ax, %ds
    mov (%ebx), %eax
    EXPECT_AX 1, "loading DS in real mode keeps the limit"

    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmp $0x18, $pm16
pm16:
    mov $0x20, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
    ljmpl $0x08, $(pm32 + 0xf0000)
    .code32
pm32:
    mov $0x10, %ax
    mov %ax, %ds
    movl $0x87654321, 0x300000
    mov 0x300000, %edx
    mov $0x20, %ax
    mov %ax, %ds
    ljmp $0x18, $pm16b
    .code16
pm16b:
    mov %cr0, %eax
    and $0xfe, %al
    mov %eax, %cr0
    ljmp $0xf000, $rm
rm: xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp
    mov %dx, %ax
    EXPECT_AX 0x4321, "real, 16-bit, 32-bit, 16-bit, real"
    CATCH 13
    mov $0x10000, %ebx
18: mov (%ebx), %al
    CAUGHT
    mov 0x702, %ax
    sub $18b, %ax
    EXPECT_AX 0, "limits of 64 KiB are back"

    /* ---- single step */
    CATCH 1
    pushf
    pop %ax
    or $0x100, %ax
    push %ax
    popf
    nop
19: nop
    CAUGHT
    mov 0x702, %ax
    sub $19b, %ax
    EXPECT_AX 0, "single step in real mode"

    /* ---- end */
    mov 0x600, %ax
    add $0x10, %ax
    cmp $0x10, %ax
    je 1f
    mov $0x11, %ax
1:  mov $EXIT, %dx
    out %al, %dx
2:  hlt
    jmp 2b

/* Any vector: saves the frame's IP at 0:702h and goes on at [700h] with the stack of CATCH. */
catch:
    push %bp
    mov %sp, %bp
    push %ax
    xor %ax, %ax
    mov %ax, %ds
    mov 2(%bp), %ax
    mov %ax, 0x702
    mov 0x706, %sp
    jmp *0x700

int21:
    mov $0x5678, %bx
    stc
    iret

/* cs:si is the name; ZF says whether the case passed. */
report:
    pushf
    push %ax
    push %dx
    mov $ok_text, %di
    jz 1f
    incw 0x600
    mov $fail_text, %di
1:  xchg %si, %di
    call print
    mov %di, %si
    call print
    pop %dx
    pop %ax
    popf
    jz 2f
    push %ax
    mov $is_text, %si
    call print
    mov %ah, %al
    call hex
    pop %ax
    push %ax
    call hex
    pop %ax
2:  push %ax
    mov $10, %al
    out %al, $0xe9
    pop %ax
    ret

hex:
    push %ax
    shr $4, %al
    call nibble
    pop %ax
nibble:
    and $15, %al
    add $0x30, %al
    cmp $0x3a, %al
    jb 1f
    add $39, %al
1:  out %al, $0xe9
    ret

print:
    push %ax
1:  mov %cs:(%si), %al
    inc %si
    test %al, %al
    jz 2f
    out %al, $0xe9
    jmp 1b
2:  pop %ax
    ret

ok_text:   .asciz "ok "
fail_text: .asciz "FAIL "
is_text:   .asciz ": ax is "

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff     /* 08: 32-bit code, flat */
    .quad 0x00cf93000000ffff     /* 10: 4 GiB data */
    .quad 0x00009b0f0000ffff     /* 18: 16-bit code at F0000h */
    .quad 0x000093000000ffff     /* 20: 64 KiB data */
gdt_ptr:
    .word gdt_ptr - gdt - 1
    .long 0xf0000 + gdt

    .org 0xfff0
    ljmp $0xf000, $start
    .org 0xffff
    .byte 0
