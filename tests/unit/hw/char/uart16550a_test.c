/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/char/uart16550a.h"

#include <string.h>

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define BASE 0x3f8

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define THR RBR
#define FCR IIR

#define MCR_LOOP 0x10
#define OUT2     0x08
#define RTS      0x02
#define DTR      0x01
#define CHAR_NS  (10 * 1000000000ll / 115200)

/* A back end that keeps what is written and has a line of input to offer. */
struct fake_chr {
    struct chardev chr;
    uint8_t out[256];
    size_t nout;
    const char *in;
    unsigned asked;
};

struct fixture {
    struct testvm *tv;
    struct device *uart;
    struct testvm_irq irq;
    struct fake_chr chr;
};

static void fake_write(struct chardev *chr, const uint8_t *data, size_t len)
{
    struct fake_chr *c = (struct fake_chr *)chr;

    memcpy(c->out + c->nout, data, len);
    c->nout += len;
}

/* As the real ones do: pushes as much as there is room for, from inside the call. */
static void fake_accept(struct chardev *chr)
{
    struct fake_chr *c = (struct fake_chr *)chr;
    size_t n = strlen(c->in), room = chr->can_receive(chr->opaque);

    c->asked++;
    n = n < room ? n : room;
    chr->receive(chr->opaque, (const uint8_t *)c->in, n);
    c->in += n;
}

static const struct chardev_ops fake_ops = {.write = fake_write, .accept_input = fake_accept};

static uint8_t rd(struct fixture *f, uint16_t reg)
{
    return testvm_inb(f->tv, (uint16_t)(BASE + reg));
}

static void wr(struct fixture *f, uint16_t reg, uint8_t val)
{
    testvm_outb(f->tv, (uint16_t)(BASE + reg), val);
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct uart16550a_config config = {.iobase = BASE, .chr = &f->chr.chr};

    f->chr.chr.ops = &fake_ops;
    f->chr.in = "";
    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->irq, 4);
    config.irq = testvm_irq_source(&f->irq);
    f->uart = testvm_add(f->tv, &uart16550a_type, &config);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

/* 115200 8N1, FIFOs with the given FCR, interrupts as asked for. */
static void open_port(struct fixture *f, uint8_t fcr, uint8_t ier)
{
    wr(f, LCR, 0x83);
    wr(f, RBR, 1);
    wr(f, IER, 0);
    wr(f, LCR, 0x03);
    wr(f, FCR, fcr);
    wr(f, MCR, OUT2 | RTS | DTR);
    wr(f, IER, ier);
}

/* The back end has these bytes now. */
static void input(struct fixture *f, const char *text)
{
    f->chr.in = text;
    TESTVM_LOCKED(f->tv, fake_accept(&f->chr.chr));
}

TEST_F(reset_values_are_those_of_table_ii)
{
    assert_int_equal(rd(f, IER), 0);
    assert_int_equal(rd(f, IIR), 1);
    assert_int_equal(rd(f, MCR), 0);
    assert_int_equal(rd(f, LSR), 0x60);
    assert_int_equal(rd(f, MSR), 0xb0); /* something is plugged in */
}

TEST_F(bytes_written_go_out_at_once)
{
    wr(f, THR, 'h');
    wr(f, THR, 'i');
    assert_memory_equal(f->chr.out, "hi", 2);
    assert_int_equal(rd(f, LSR), 0x60);
}

TEST_F(short_words_lose_their_upper_bits)
{
    wr(f, LCR, 0x02); /* seven bits */
    wr(f, THR, 0xc1);
    wr(f, LCR, 0x00);
    wr(f, THR, 0xff);
    assert_int_equal(f->chr.out[0], 0x41);
    assert_int_equal(f->chr.out[1], 0x1f);
}

TEST_F(divisor_hides_behind_dlab)
{
    wr(f, LCR, 0x83);
    wr(f, RBR, 0x34);
    wr(f, IER, 0x12);
    assert_int_equal(rd(f, RBR), 0x34);
    assert_int_equal(rd(f, IER), 0x12);
    wr(f, LCR, 0x03);
    assert_int_equal(rd(f, IER), 0);
    assert_int_equal(f->chr.nout, 0);
}

TEST_F(registers_keep_only_the_bits_they_have)
{
    wr(f, IER, 0xff);
    wr(f, MCR, 0xff);
    wr(f, SCR, 0xa5);
    wr(f, LSR, 0xff);
    wr(f, MSR, 0xff);
    assert_int_equal(rd(f, IER), 0x0f);
    assert_int_equal(rd(f, MCR), 0x1f);
    assert_int_equal(rd(f, SCR), 0xa5);
    assert_int_equal(rd(f, LSR), 0x60);
}

/* What Linux' autoconfig() and autoconfig_16550a() do, drivers/tty/serial/8250/8250_port.c. */
TEST_F(linux_finds_a_16550a_and_nothing_more)
{
    wr(f, IER, 0);
    assert_int_equal(rd(f, IER) & 0x0f, 0);
    wr(f, IER, 0x0f);
    assert_int_equal(rd(f, IER) & 0x0f, 0x0f);
    wr(f, IER, 0);
    wr(f, MCR, MCR_LOOP | 0x0a);
    assert_int_equal(rd(f, MSR) & 0xf0, 0x90);
    wr(f, MCR, 0);
    wr(f, LCR, 0xbf);
    wr(f, FCR, 0x00); /* an EFR would be here */
    wr(f, LCR, 0x00);
    wr(f, FCR, 0x01);
    assert_int_equal(rd(f, IIR) >> 6, 3);
    wr(f, LCR, 0x80);
    assert_int_not_equal(rd(f, FCR), 0);
    wr(f, LCR, 0xbf);
    assert_int_not_equal(rd(f, FCR), 0);
    wr(f, LCR, 0xe0);
    assert_int_equal(rd(f, 2) & 0x10, 0); /* EXCR1 of a National part */
    wr(f, LCR, 0x00);
    wr(f, FCR, 0x21);
    assert_int_equal(rd(f, IIR) >> 5, 6); /* no 64-byte FIFO */
    wr(f, LCR, 0x80);
    wr(f, FCR, 0x21);
    assert_int_equal(rd(f, IIR) >> 5, 6);
    wr(f, LCR, 0x00);
    wr(f, IER, 0x40);
    assert_int_equal(rd(f, IER) & 0x40, 0); /* no XScale UUE */
}

/* serial8250_do_startup(): neither UART_BUG_THRE nor UART_BUG_TXEN. */
TEST_F(linux_finds_no_transmitter_bugs)
{
    open_port(f, 0x01, 0);
    wr(f, IER, 0x02);
    assert_int_equal(rd(f, IIR) & 0x0f, 0x02);
    wr(f, IER, 0);
    wr(f, IER, 0x02);
    assert_int_equal(rd(f, IIR) & 0x0f, 0x02);
    wr(f, IER, 0);
}

TEST_F(thre_interrupt_comes_a_little_after_the_burst)
{
    open_port(f, 0x01, 0x02);
    assert_true(f->irq.level);
    assert_int_equal(rd(f, IIR), 0xc2);
    assert_false(f->irq.level); /* reading IIR clears it */
    for (unsigned i = 0; i < 16; i++)
        wr(f, THR, 'x');
    assert_int_equal(rd(f, IIR), 0xc1);
    assert_false(f->irq.level);
    testvm_advance(f->tv, 100 * NS_PER_US);
    assert_true(f->irq.level);
    assert_int_equal(rd(f, IIR), 0xc2);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_false(f->irq.level); /* once */
}

TEST_F(transmitter_fifo_reset_reports_empty)
{
    open_port(f, 0x01, 0x02);
    rd(f, IIR);
    wr(f, THR, 'x');
    assert_false(f->irq.level);
    wr(f, FCR, 0x05);
    assert_true(f->irq.level);
}

TEST_F(out2_gates_the_interrupt)
{
    open_port(f, 0x01, 0x02);
    assert_true(f->irq.level);
    wr(f, MCR, RTS | DTR);
    assert_false(f->irq.level);
    wr(f, MCR, OUT2);
    assert_true(f->irq.level);
    wr(f, MCR, OUT2 | MCR_LOOP);
    assert_false(f->irq.level);
}

TEST_F(received_byte_interrupts_and_is_read)
{
    open_port(f, 0x00, 0x01);
    input(f, "A");
    assert_true(f->irq.level);
    assert_int_equal(rd(f, IIR), 0x04);
    assert_int_equal(rd(f, LSR) & 1, 1);
    assert_int_equal(rd(f, RBR), 'A');
    assert_false(f->irq.level);
    assert_int_equal(rd(f, LSR) & 1, 0);
}

TEST_F(fifo_interrupts_at_each_trigger_level)
{
    static const struct {
        uint8_t fcr;
        const char *below;
    } levels[] = {{0x01, ""}, {0x41, "abc"}, {0x81, "abcdefg"}, {0xc1, "abcdefghijklm"}};

    for (unsigned i = 0; i < ARRAY_LEN(levels); i++) {
        open_port(f, levels[i].fcr | 2, 0x01);
        input(f, levels[i].below);
        assert_int_equal(rd(f, IIR), 0xc1);
        testvm_advance(f->tv, 20 * CHAR_NS);
        open_port(f, levels[i].fcr | 2, 0x01); /* empty again, the line idle */
        input(f, levels[i].below);
        testvm_advance(f->tv, (int64_t)strlen(levels[i].below) * CHAR_NS + 1000);
        input(f, "!");
        assert_int_equal(rd(f, IIR), 0xc4);
        assert_true(f->irq.level);
        rd(f, RBR);
        assert_int_equal(rd(f, IIR), 0xc1);
        testvm_advance(f->tv, 100 * CHAR_NS);
    }
}

TEST_F(character_timeout_tells_of_a_few_bytes)
{
    open_port(f, 0xc1, 0x01);
    input(f, "ab");
    testvm_advance(f->tv, 3 * CHAR_NS);
    assert_false(f->irq.level);
    testvm_advance(f->tv, 2 * CHAR_NS);
    assert_true(f->irq.level);
    assert_int_equal(rd(f, IIR), 0xcc);
    assert_int_equal(rd(f, RBR), 'a');
    assert_int_equal(rd(f, IIR), 0xc1); /* reading starts it again */
    testvm_advance(f->tv, 5 * CHAR_NS);
    assert_int_equal(rd(f, IIR), 0xcc);
    assert_int_equal(rd(f, RBR), 'b');
    testvm_advance(f->tv, 5 * CHAR_NS);
    assert_int_equal(rd(f, IIR), 0xc1);
}

TEST_F(input_arrives_at_the_programmed_rate)
{
    unsigned n = 0;

    open_port(f, 0x01, 0x01);
    input(f, "0123456789abcdef0123456789abcdef0123456789abcdef");
    for (unsigned i = 0; i < 32; i++) {
        while (rd(f, LSR) & 1)
            n += rd(f, RBR) != 0;
        testvm_advance(f->tv, CHAR_NS);
    }
    assert_in_range(n, 32, 48);
    testvm_advance(f->tv, 20 * CHAR_NS);
    while (rd(f, LSR) & 1)
        n += rd(f, RBR) != 0;
    assert_int_equal(n, 48);
}

TEST_F(input_waits_until_the_guest_raises_rts)
{
    wr(f, FCR, 0x01);
    wr(f, MCR, 0);
    input(f, "typed ahead");
    assert_int_equal(rd(f, LSR) & 1, 0);
    open_port(f, 0x07, 0);
    assert_int_equal(rd(f, RBR), 't');
}

TEST_F(input_before_anybody_listens_waits)
{
    input(f, "x");
    assert_int_equal(rd(f, LSR) & 1, 0);
    open_port(f, 0x07, 0);
    assert_int_equal(rd(f, RBR), 'x');
}

TEST_F(guest_that_never_writes_mcr_gets_input_when_it_polls)
{
    input(f, "x");
    for (unsigned i = 0; i < 100; i++)
        rd(f, LSR);
    assert_int_equal(rd(f, LSR) & 1, 1);
    assert_int_equal(rd(f, RBR), 'x');
}

TEST_F(guest_that_never_writes_mcr_gets_input_by_interrupt)
{
    wr(f, IER, 0x01);
    input(f, "x");
    assert_int_equal(rd(f, RBR), 'x');
}

TEST_F(loopback_returns_bytes_and_modem_lines)
{
    wr(f, MCR, MCR_LOOP);
    rd(f, MSR);
    wr(f, THR, 0x55);
    assert_int_equal(rd(f, RBR), 0x55);
    assert_int_equal(f->chr.nout, 0);
    wr(f, MCR, MCR_LOOP | DTR);
    assert_int_equal(rd(f, MSR), 0x22);
    wr(f, MCR, MCR_LOOP | RTS | 0x04);
    assert_int_equal(rd(f, MSR), 0x53); /* CTS, RI; CTS and DSR changed */
    wr(f, MCR, MCR_LOOP | OUT2);
    assert_int_equal(rd(f, MSR), 0x8d); /* DCD; CTS changed, RI fell, DCD changed */
    assert_int_equal(rd(f, MSR), 0x80);
}

TEST_F(modem_status_change_interrupts)
{
    open_port(f, 0x01, 0x08);
    wr(f, MCR, MCR_LOOP);
    wr(f, MCR, OUT2);
    assert_int_equal(rd(f, IIR), 0xc0);
    assert_true(f->irq.level);
    rd(f, MSR);
    assert_false(f->irq.level);
}

/* FreeBSD's ns8250_bus_probe() counts the FIFO's bytes like this. */
TEST_F(fifo_overruns_after_sixteen_bytes)
{
    unsigned n = 0;

    wr(f, FCR, 0x07);
    wr(f, MCR, MCR_LOOP);
    do {
        wr(f, THR, (uint8_t)n++);
    } while (!(rd(f, LSR) & 0x02) && n < 260);
    assert_int_equal(n, 17);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(rd(f, RBR), i);
    assert_int_equal(rd(f, LSR), 0x60);
}

TEST_F(single_register_overrun_keeps_the_newer_byte)
{
    wr(f, MCR, MCR_LOOP);
    wr(f, THR, 1);
    wr(f, THR, 2);
    assert_int_equal(rd(f, LSR), 0x63);
    assert_int_equal(rd(f, LSR), 0x61);
    assert_int_equal(rd(f, RBR), 2);
}

TEST_F(break_shows_when_its_byte_is_the_oldest)
{
    open_port(f, 0x01, 0x05);
    input(f, "a");
    TESTVM_LOCKED(f->tv, uart16550a_receive_break(f->uart));
    assert_int_equal(rd(f, LSR), 0xe1); /* an error is somewhere in the FIFO */
    assert_int_equal(rd(f, RBR), 'a');
    assert_int_equal(rd(f, IIR), 0xc6);
    assert_int_equal(rd(f, LSR), 0xf1);
    assert_int_equal(rd(f, RBR), 0);
    assert_int_equal(rd(f, LSR), 0x60);
}

TEST_F(changing_the_fifo_enable_empties_it)
{
    open_port(f, 0x01, 0);
    input(f, "abc");
    wr(f, FCR, 0x00);
    assert_int_equal(rd(f, LSR) & 1, 0);
    assert_int_equal(rd(f, IIR), 0x01);
}

TEST_F(bytes_during_a_break_are_lost)
{
    wr(f, LCR, 0x43);
    wr(f, THR, 'x');
    assert_int_equal(f->chr.nout, 0);
}

TEST_F(port_without_back_end_swallows_output_and_shows_no_lines)
{
    struct fixture g = {.tv = f->tv};

    testvm_add_named(g.tv, &uart16550a_type, "com2", &(struct uart16550a_config){.iobase = 0x2f8});
    testvm_outb(g.tv, 0x2f8, 'x');
    assert_int_equal(testvm_inb(g.tv, 0x2f8 + MSR), 0);
    assert_int_equal(testvm_inb(g.tv, 0x2f8 + LSR), 0x60);
}

TEST_F(bad_iobase_is_refused)
{
    struct err err = {0};

    assert_null(device_new(&f->tv->vm, &uart16550a_type, "com9",
                           &(struct uart16550a_config){.iobase = 0x3f9}, &err));
    assert_non_null(strstr(err.text, "0x3f9"));
}

TEST_F(detached_port_lets_go_of_its_back_end)
{
    TESTVM_LOCKED(f->tv, device_detach(f->uart));
    assert_null(f->chr.chr.receive);
    assert_int_equal(rd(f, LSR), 0xff);
}

TEST_F(state_survives_with_bytes_waiting)
{
    open_port(f, 0xc1, 0x0f);
    input(f, "abcdef");
    wr(f, THR, 'x');
    wr(f, SCR, 9);
    testvm_state_roundtrip(f->uart);
    testvm_advance(f->tv, NS_PER_MS);
    testvm_state_roundtrip(f->uart);
    assert_int_equal(rd(f, RBR), 'a');
}

TEST_F(impossible_state_is_refused)
{
    assert_false(testvm_load_with(f->uart, "rx_count", 0, 17));
    assert_false(testvm_load_with(f->uart, "rx_count", 0, 2)); /* no FIFO */
    assert_false(testvm_load_with(f->uart, "fcr", 0, 0x02));
    assert_false(testvm_load_with(f->uart, "rx_errors", 3, 0x02));
    assert_false(testvm_load_with(f->uart, "lsr_errors", 0, 0x01));
    assert_true(testvm_load_with(f->uart, "rx_count", 0, 1));
}
