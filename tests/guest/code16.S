/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ROM of hot loops in real mode: code in RAM that changes, code at two values of CS, wraps at 64 KiB,
 * flags returned in BIOS fashion. Prints and leaves as the other tiny guests do.
 */
    .code16
    .text
    .org 0

#define EXIT  0x501
#define HOT   4000
#define RAM   0x2000       /* the segment that the code below is copied to */
#define AT(x) ((x) - ram)  /* its offset there */

/* Checks ax, the number of failures, and prints the case's name; those that failed are counted at 0:600h. */
    .macro PASSED name
    cmp $0, %ax
    mov $100f, %si
    call report
    jmp 101f
100: .asciz "\name"
101:
    .endm

/* bp counts the failures of a loop of cx turns. */
    .macro TURNS
    xor %bp, %bp
    mov $HOT, %cx
    .endm
    .macro WANT_EQUAL
    je 102f
    inc %bp
102:
    .endm
    .macro TURNED label, name
    dec %cx
    jnz \label
    mov %bp, %ax
    PASSED "\name"
    .endm

start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7000, %sp
    movw $0, 0x600
    movw $handler, 4*0x60
    movw %cs, 4*0x60+2
    mov $RAM, %ax
    mov %ax, %es
    xor %di, %di
    mov $ram, %si
    mov $(ram_end - ram), %cx
    rep movsb %cs:(%si), %es:(%di)
    mov %ax, %ds

    /* ---- code that changes */
    TURNS
1:  mov %cx, %dx
    lcall $RAM, $AT(modified)
    cmp %cx, %ax
    WANT_EQUAL
    TURNED 1b, "a store into the next instruction"

    TURNS
1:  mov $0x777, %bx               /* elsewhere, most of the time */
    test $63, %cl
    jnz 2f
    mov $(AT(seldom_at) + 1), %bx
    mov %cx, 0x770
2:  mov %cx, %dx
    lcall $RAM, $AT(seldom)
    cmp 0x770, %ax
    WANT_EQUAL
    TURNED 1b, "a store that seldom hits the code"

    TURNS
1:  mov %cx, 0x780
    mov $0x780, %si
    mov $(AT(copied_at) + 1), %di
    lcall $RAM, $AT(copied)
    cmp %cx, %ax
    WANT_EQUAL
    TURNED 1b, "REP MOVS into the next instruction"

    TURNS
1:  lcall $RAM, $AT(pushed)
    cmp %cx, %ax
    WANT_EQUAL
    TURNED 1b, "PUSH into the next instruction"

    /* ---- the same bytes in segments that overlap */
    TURNS
1:  test $1, %cl
    jz 2f
    lcall $RAM, $AT(where)
    cmp $AT(where_at), %ax
    WANT_EQUAL
    jmp 3f
2:  lcall $(RAM - 0x30), $(AT(where) + 0x300)
    cmp $(AT(where_at) + 0x300), %ax
    WANT_EQUAL
3:  TURNED 1b, "code at two values of CS"

    TURNS
1:  mov %cx, %ax
    and $7, %ax
    add $RAM, %ax
    mov %ax, %es
    movw $0, %es:0x800
    mov %cx, %es:0x800
    mov $RAM, %ax
    mov %ax, %es
    mov %cx, %bx
    and $7, %bx
    shl $4, %bx
    cmp %cx, %es:0x800(%bx)
    WANT_EQUAL
    TURNED 1b, "ES changes in the loop"

    /* ---- wraps at 64 KiB */
    movb $0xeb, 0xfff0            /* jmp from fff0h to 12h */
    movb $0x20, 0xfff1
    TURNS
1:  xor %ax, %ax
    lcall $RAM, $0xfff0
    cmp $0x1234, %ax
    WANT_EQUAL
    TURNED 1b, "a jump wraps IP"

    TURNS
1:  mov %sp, %dx
    mov %ss, %bx
    mov $0x3000, %ax
    mov %ax, %ss
    mov $2, %sp
    push %cx                      /* at 0 */
    push $0x55aa                  /* at fffeh */
    call 2f
    jmp 3f
2:  ret
3:  pop %ax
    pop %di
    mov %sp, %si
    mov %bx, %ss
    mov %dx, %sp
    cmp %cx, %di
    WANT_EQUAL
    cmp $2, %si
    WANT_EQUAL
    cmp $0x55aa, %ax
    WANT_EQUAL
    TURNED 1b, "SP wraps"

    /* ---- stacks anywhere: SS at a page's beginning and not, SP near every border of pages, ESP larger */
    movl $12345, 0x770
    TURNS
1:  imul $1664525, 0x770, %edi    /* any SP */
    add $1013904223, %edi
    mov %edi, 0x770
    shr $12, %edi
    mov %di, %bx
    test $3, %cl
    jz 2f
    and $0xf000, %bx              /* ... near a border, mostly */
    and $0x3f, %di
    lea -0x20(%bx,%di), %bx
2:  and $0xfffe, %bx
    test $12, %cl
    jnz 2f
    cmp $0x100, %bx
    jb 2f
    inc %bx                       /* odd, sometimes */
    cmp $0xfff0, %bx
    jb 2f
    dec %bx
2:  movzx %bx, %ebx
    test $16, %cl
    jz 2f
    or $0x50000, %ebx
2:  mov %cx, %si
    and $3, %si
    add %si, %si
    mov %cs:stacks(%si), %ax
    mov %ss, %dx
    mov %dx, 0x774
    mov %esp, 0x778
    mov %ebx, 0x77c
    mov %ax, %ss
    mov %ebx, %esp
    push $0x1111
    push %cx
    mov %sp, %si
    cmp %cx, %ss:(%si)            /* by an address */
    WANT_EQUAL
    push $0x5555
    pushf
    push %si
    pop %ax
    popf
    cmp %si, %ax
    WANT_EQUAL
    call stack_call
    pop %dx
    cmp $0x5556, %dx
    WANT_EQUAL
    pop %bx
    mov 0x774, %ax
    mov %ss, %dx
    mov %ax, %ss                  /* SS alone changes in between */
    mov $0x6800, %si
    xchg %sp, %si
    push $0x7777
    pop %di
    mov %dx, %ss
    mov %si, %sp
    cmp %cx, %bx
    WANT_EQUAL
    cmp $0x7777, %di
    WANT_EQUAL
    pop %di
    cmp $0x1111, %di
    WANT_EQUAL
    mov %esp, %edi
    mov 0x774, %ax
    mov %ax, %ss
    mov 0x778, %esp
    cmp %edi, 0x77c
    WANT_EQUAL
    TURNED 1b, "stacks anywhere"

    TURNS
1:  mov %ss, %dx
    mov %esp, %esi
    mov $0x3000, %ax
    mov %ax, %ss
    mov $0xfffc, %esp
    pop %ax
    mov %ax, %di
    pop %ax                       /* at fffeh: SP is 0 */
    mov %ax, %di
    push %cx
    mov $0xfffe, %bx
    cmp %cx, %ss:(%bx)
    WANT_EQUAL
    cmp $0xfffe, %esp
    WANT_EQUAL
    mov $0x204, %esp
    push %cx
    sub $0x202, %esp
    push $0x7777                  /* at fffeh */
    add $0x204, %esp
    pop %ax
    cmp %cx, %ax
    WANT_EQUAL
    cmp $0x10204, %esp
    WANT_EQUAL
    mov $0x3005, %ax
    mov %ax, %ss
    mov $0x80, %esp
    push %cx
    pop %ax
    cmp %cx, %ax
    WANT_EQUAL
    movw $0, %ss:(%bx)
    mov $0, %esp
    push %cx
    cmp %cx, %ss:(%bx)
    WANT_EQUAL
    mov %dx, %ss
    mov %esi, %esp
    TURNED 1b, "SP wraps and ESP does not"

    TURNS
1:  mov %ss, %dx
    mov %sp, %di
    mov $0x3000, %ax
    mov $0x3100, %bx
    mov %ax, %ss
    mov $0x402, %sp
    movw $0x1111, %ss:0x400
    mov %bx, 0x7a2
    push %cx
    lss 0x7a0, %si
    push $0x2222                  /* another segment, the same SP */
    mov %ax, %ss
    movw $0x3333, %ss:0x3fe
    pop %si
    mov %bx, %ss
    pop %bx
    push %cx
    mov %ss:0x3fe, %ax
    mov %dx, %ss
    mov %di, %sp
    cmp $0x3333, %si
    WANT_EQUAL
    cmp $0x2222, %ax
    WANT_EQUAL
    TURNED 1b, "SS changes between PUSH and POP"

    mov $0x3100, %ax              /* at 31000h: mov $0, %ax; lret */
    mov %ax, %es
    movl $0xcb0000b8, %es:0
    TURNS
1:  mov %ss, %dx
    mov %sp, %di
    mov $0x3005, %ax
    mov %ax, %ss
    mov $0x80, %sp                /* 300d0h */
    push %cx
    pop %bx
    mov $0xfb3, %sp
    push %cx                      /* into the MOV */
    mov %dx, %ss
    mov %di, %sp
    lcall $0x3100, $0
    cmp %cx, %ax
    WANT_EQUAL
    TURNED 1b, "PUSH into code on the next page"

    mov $0x3000, %ax
    mov %ax, %es
    TURNS
1:  push %cx
    mov %cl, %al
    mov $0xfffd, %di
    mov $6, %cx
    rep stosb
    cmp $3, %di
    pop %cx
    WANT_EQUAL
    cmp %cl, %es:0xffff
    WANT_EQUAL
    cmp %cl, %es:2
    WANT_EQUAL
    push %cx
    push %ds
    mov $0x3000, %ax
    mov %ax, %ds
    mov $1, %si
    mov $3, %cx
    std
    rep lodsb
    cld
    pop %ds
    pop %cx
    cmp %cl, %al
    WANT_EQUAL
    cmp $0xfffe, %si
    WANT_EQUAL
    TURNED 1b, "strings wrap, up and down"

    TURNS
1:  mov $0xff00, %bx
    mov $0x0200, %si
    mov %cx, %es:0x20(%bx,%si)
    cmp %cx, %es:0x120
    WANT_EQUAL
    TURNED 1b, "addresses wrap"

    /* ---- flags */
    TURNS
1:  mov %cx, %ax
    int $0x60                     /* CF: bit 0; ZF: bits 0 to 3 are zero */
    setc %bl
    setz %bh
    mov %cl, %al
    and $1, %al
    cmp %al, %bl
    WANT_EQUAL
    test $15, %cl
    setz %al
    cmp %al, %bh
    WANT_EQUAL
    TURNED 1b, "flags from an interrupt by RETF 2"

    TURNS
1:  mov %cx, %ax
    lcall $RAM, $AT(flags)
    jc 2f
    test $1, %cl
    WANT_EQUAL
    jmp 3f
2:  test $1, %cl
    jnz 3f
    inc %bp
3:  TURNED 1b, "CF from a far call"

    TURNS
1:  mov $0xffffffff, %eax
    mov $0x12340000, %edx
    mov %cx, %dx
    add %edx, %eax
    adc $0, %dx                   /* carry: +1 */
    sub $1, %dx
    cmp %cx, %dx
    WANT_EQUAL
    shr $16, %eax
    cmp $0x1234, %ax
    WANT_EQUAL
    TURNED 1b, "32-bit operands"

    TURNS
1:  push %cx
    mov $0x10003, %ecx
    xor %ax, %ax
2:  inc %ax
    loop 2b                       /* by CX */
    cmp $3, %ax
    WANT_EQUAL
    mov $3, %ecx
3:  inc %ax
    addr32 loop 3b                /* by ECX */
    cmp $6, %ax
    WANT_EQUAL
    pop %cx
    TURNED 1b, "LOOP by CX and by ECX"

    xor %ax, %ax
    mov %ax, %ds
    mov 0x600, %ax
    add $0x10, %ax
    cmp $0x10, %ax
    je 1f
    mov $0x11, %ax
1:  mov $EXIT, %dx
    out %al, %dx
2:  hlt
    jmp 2b

stacks: .word 0x3000, 0x3005, 0x2fff, 0x30ff

/* 5555h on the stack becomes 5556h. */
stack_call:
    pop %dx
    pop %ax
    inc %ax
    push %ax
    push %dx
    ret

/* As a BIOS does it: the flags are the result, those of the caller are thrown away. */
handler:
    test $15, %al
    pushf
    shr $1, %al
    lahf
    mov %ah, %al
    pop %dx
    and $1, %al
    and $0xfe, %dl
    or %al, %dl
    push %dx
    popf
    lret $2

/* cs:si is the name; ZF says whether the case passed. */
report:
    pushf
    push %ax
    push %dx
    mov $ok_text, %di
    jz 1f
    incw %ss:0x600
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

/* ---- copied to RAM:0 */
ram:
    .org ram + 0x12
wrapped:
    mov $0x1234, %ax
    lret
modified:
    mov %dx, %cs:(AT(modified_at) + 1)
modified_at:
    mov $0, %ax
    lret
    .skip 70, 0xcc
seldom:
    mov %dx, %cs:(%bx)
seldom_at:
    mov $0, %ax
    lret
    .skip 70, 0xcc
copied:
    push %cx
    mov $2, %cx
    rep movsb
    pop %cx
copied_at:
    mov $0, %ax
    lret
    .skip 70, 0xcc
pushed:
    mov %sp, %bx
    mov %ss, %dx
    mov %cs, %ax
    mov %ax, %ss
    mov $(AT(pushed_at) + 3), %sp
    push %cx
    mov %dx, %ss
    mov %bx, %sp
pushed_at:
    mov $0, %ax
    lret
    .skip 70, 0xcc
where:
    call where_at
where_at:
    pop %ax
    lret
flags:
    shr $1, %ax
    lret
ram_end:

    .org 0xfff0
    ljmp $0xf000, $start
    .org 0xffff
    .byte 0
