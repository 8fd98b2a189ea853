/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uart16550a: a 16550A serial port with its 16-byte FIFOs, eight ports at iobase, a character back
 * end as the other end of the line. OUT2 gates the interrupt, as on every PC.
 *
 * National Semiconductor PC16550D data sheet, whose names are used (sections 8.1 to 8.10).
 *
 * Time: a byte that is written goes out at once, and LSR says so; polled drivers never wait. Only
 * the THRE interrupt comes a little later (TX_BURST_NS), because drivers loop in their handler as
 * long as it is pending: Linux gives up after 512 rounds with "too much work for irq4". Bytes come
 * in at the programmed rate, so that what is pasted overruns no driver, and the character timeout
 * is real.
 *
 * The other end honours RTS: it holds its bytes while RTS is off, so that input typed ahead waits
 * for the system that opens the port. A guest that has never written MCR gets them once it enables
 * the receive interrupt or has polled LSR for a while: what came before would be lost when it sets
 * up the port.
 *
 * Not emulated: framing and parity errors of the line, sending a break (bytes written meanwhile are
 * lost, as on the wire). A hostile guest reaches the FIFO and writes to the back end, one byte per
 * access.
 */
#include "hw/char/uart16550a.h"

#include <errno.h>
#include <string.h>

#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define RBR_THR      0 /* DLL when DLAB is set */
#define IER          1 /* DLM when DLAB is set */
#define IIR_FCR      2
#define LCR          3
#define MCR          4
#define LSR          5
#define MSR          6
#define SCR          7
#define UART_PORTS   8
#define LISTEN_POLLS 64 /* reads of LSR after which somebody seems to wait for input */

#define IER_ERBFI 0x01
#define IER_ETBEI 0x02
#define IER_ELSI  0x04
#define IER_EDSSI 0x08
#define IER_MASK  0x0f

#define IIR_NONE  0x01
#define IIR_RLS   0x06
#define IIR_RDA   0x04
#define IIR_CTI   0x0c
#define IIR_THRE  0x02
#define IIR_MODEM 0x00
#define IIR_FIFOS 0xc0

#define FCR_ENABLE        0x01
#define FCR_RX_RESET      0x02
#define FCR_TX_RESET      0x04
#define FCR_DMA           0x08
#define FCR_TRIGGER_SHIFT 6
#define FCR_STORED        0xc9

#define LCR_WLS   0x03
#define LCR_STB   0x04
#define LCR_PEN   0x08
#define LCR_BREAK 0x40
#define LCR_DLAB  0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR          0x01
#define LSR_OE          0x02
#define LSR_PE          0x04
#define LSR_FE          0x08
#define LSR_BI          0x10
#define LSR_THRE        0x20
#define LSR_TEMT        0x40
#define LSR_FIFO_ERROR  0x80
#define LSR_CHAR_ERRORS (LSR_PE | LSR_FE | LSR_BI)
#define LSR_ERRORS      (LSR_OE | LSR_CHAR_ERRORS)

#define MSR_DCTS   0x01
#define MSR_DDSR   0x02
#define MSR_TERI   0x04
#define MSR_DDCD   0x08
#define MSR_DELTAS 0x0f
#define MSR_CTS    0x10
#define MSR_DSR    0x20
#define MSR_RI     0x40
#define MSR_DCD    0x80
#define MSR_LINES  0xf0

#define FIFO_SIZE 16
static const uint8_t triggers[4] = {1, 4, 8, 14};

#define CLOCK_HZ       1843200ll
#define CLOCKS_PER_BIT 16
#define TIMEOUT_CHARS  4

#define TX_BURST_NS 30000

/* ---- The device ----------------------------------------------------------------------------- */

struct uart16550a {
    struct device dev;

    /* wiring */
    struct irq irq;
    struct chardev *chr; /* borrowed; may be NULL */
    struct region region;
    uint16_t iobase;

    /* derived */
    struct timer timer;

    struct uart16550a_state {
        int64_t thre_at;   /* when the transmitter reports empty; 0: it has */
        int64_t rx_active; /* last time a byte went into or out of the receiver: for the timeout */
        int64_t rx_ready_at; /* the line is busy with bytes already taken until then */
        uint8_t rx[FIFO_SIZE];
        uint8_t rx_errors[FIFO_SIZE]; /* LSR bits that belong to each byte */
        uint8_t rx_head;              /* oldest byte */
        uint8_t rx_count;
        uint8_t ier;
        uint8_t fcr;
        uint8_t lcr;
        uint8_t mcr;
        uint8_t lsr_errors;
        uint8_t msr_deltas;
        uint8_t scr;
        uint8_t dll;
        uint8_t dlm;
        bool thre_pending;
        bool mcr_written;
        uint8_t lsr_polls; /* while MCR has not been written; stops at LISTEN_POLLS */
        uint8_t zero[2];
    } state;
};

static const struct state_field fields[] = {
    STATE_INT(struct uart16550a_state, thre_at, 0, INT64_MAX - 1),
    STATE_INT(struct uart16550a_state, rx_active, 0, INT64_MAX / 2),
    STATE_INT(struct uart16550a_state, rx_ready_at, 0, INT64_MAX - 1),
    STATE_BYTES(struct uart16550a_state, rx),
    STATE_UINTS(struct uart16550a_state, rx_errors, 0, LSR_ERRORS),
    STATE_UINT(struct uart16550a_state, rx_head, 0, FIFO_SIZE - 1),
    STATE_UINT(struct uart16550a_state, rx_count, 0, FIFO_SIZE),
    STATE_UINT(struct uart16550a_state, ier, 0, IER_MASK),
    STATE_UINT(struct uart16550a_state, fcr, 0, FCR_STORED),
    STATE_UINT(struct uart16550a_state, lcr, 0, 0xff),
    STATE_UINT(struct uart16550a_state, mcr, 0, MCR_MASK),
    STATE_UINT(struct uart16550a_state, lsr_errors, 0, LSR_ERRORS),
    STATE_UINT(struct uart16550a_state, msr_deltas, 0, MSR_DELTAS),
    STATE_UINT(struct uart16550a_state, scr, 0, 0xff),
    STATE_UINT(struct uart16550a_state, dll, 0, 0xff),
    STATE_UINT(struct uart16550a_state, dlm, 0, 0xff),
    STATE_BOOL(struct uart16550a_state, thre_pending),
    STATE_BOOL(struct uart16550a_state, mcr_written),
    STATE_UINT(struct uart16550a_state, lsr_polls, 0, LISTEN_POLLS),
    STATE_UINTS(struct uart16550a_state, zero, 0, 0),
};

static const struct state state = STATE(struct uart16550a, state, 1, fields);

/* ---- Pure helpers --------------------------------------------------------------------------- */

static bool fifo_on(const struct uart16550a_state *s)
{
    return s->fcr & FCR_ENABLE;
}

static unsigned rx_depth(const struct uart16550a_state *s)
{
    return fifo_on(s) ? FIFO_SIZE : 1;
}

/* Start bit, data, parity, stop bits, in nanoseconds. */
static int64_t char_ns(const struct uart16550a_state *s)
{
    int64_t divisor = s->dlm << 8 | s->dll;
    int64_t bits = 1 + 5 + (s->lcr & LCR_WLS) + !!(s->lcr & LCR_PEN) + (s->lcr & LCR_STB ? 2 : 1);

    return bits * (divisor ? divisor : 1) * CLOCKS_PER_BIT * NS_PER_SEC / CLOCK_HZ;
}

static uint8_t word_mask(const struct uart16550a_state *s)
{
    return (uint8_t)(0x1f << (s->lcr & LCR_WLS) | 0x1f);
}

/* The modem lines as MSR shows them: looped back, or those of the other end. */
static uint8_t modem_lines(uint8_t mcr, bool connected)
{
    if (!(mcr & MCR_LOOP))
        return connected ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
    return (uint8_t)((mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
                     (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static uint8_t line_deltas(uint8_t before, uint8_t after)
{
    uint8_t changed = before ^ after;

    return (uint8_t)((changed & MSR_CTS ? MSR_DCTS : 0) | (changed & MSR_DSR ? MSR_DDSR : 0) |
                     (changed & before & MSR_RI ? MSR_TERI : 0) |
                     (changed & MSR_DCD ? MSR_DDCD : 0));
}

/* When the character timeout strikes, or TIMER_NEVER (section 8.8, FIFO interrupt mode). */
static int64_t timeout_at(const struct uart16550a_state *s)
{
    if (!fifo_on(s) || !s->rx_count || s->rx_count >= triggers[s->fcr >> FCR_TRIGGER_SHIFT])
        return TIMER_NEVER;
    return s->rx_active + TIMEOUT_CHARS * char_ns(s);
}

/* Interrupt identification, most urgent first (table IV). */
static uint8_t iir(const struct uart16550a_state *s, int64_t now)
{
    unsigned trigger = fifo_on(s) ? triggers[s->fcr >> FCR_TRIGGER_SHIFT] : 1;

    if ((s->ier & IER_ELSI) && s->lsr_errors)
        return IIR_RLS;
    if ((s->ier & IER_ERBFI) && s->rx_count >= trigger)
        return IIR_RDA;
    if ((s->ier & IER_ERBFI) && now >= timeout_at(s))
        return IIR_CTI;
    if ((s->ier & IER_ETBEI) && s->thre_pending)
        return IIR_THRE;
    if ((s->ier & IER_EDSSI) && s->msr_deltas)
        return IIR_MODEM;
    return IIR_NONE;
}

/* ---- Derive --------------------------------------------------------------------------------- */

static void derive(struct device *dev)
{
    struct uart16550a *uart = (struct uart16550a *)dev;
    struct uart16550a_state *s = &uart->state;
    int64_t now = clock_now(dev->vm->clock), next = TIMER_NEVER, timeout;

    if (s->thre_at && now >= s->thre_at) {
        s->thre_at = 0;
        s->thre_pending = true;
    }
    if (s->rx_ready_at && now >= s->rx_ready_at)
        s->rx_ready_at = 0;
    /* OUT2 is disconnected from its pin in loopback (section 8.6, bit 4). */
    irq_set(uart->irq, (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && iir(s, now) != IIR_NONE);

    timeout = timeout_at(s);
    if ((s->ier & IER_ETBEI) && s->thre_at)
        next = s->thre_at;
    if (s->rx_ready_at && s->rx_ready_at < next)
        next = s->rx_ready_at;
    if ((s->ier & IER_ERBFI) && timeout > now && timeout < next)
        next = timeout;
    if (next == TIMER_NEVER)
        timer_disarm(&uart->timer);
    else
        timer_arm(&uart->timer, next);
}

/* ---- The receiver --------------------------------------------------------------------------- */

/* PE, FE and BI show when their byte is the oldest (section 8.4). */
static void reveal_errors(struct uart16550a_state *s)
{
    uint8_t *errors = &s->rx_errors[s->rx_head % FIFO_SIZE];

    if (s->rx_count) {
        s->lsr_errors |= *errors;
        *errors = 0;
    }
}

static void rx_push(struct uart16550a *uart, uint8_t byte, uint8_t errors)
{
    struct uart16550a_state *s = &uart->state;
    unsigned at = (s->rx_head + s->rx_count) % FIFO_SIZE;

    s->rx_active = clock_now(uart->dev.vm->clock);
    if (s->rx_count >= rx_depth(s)) {
        /* The FIFO keeps what it has; the single holding register is overwritten. */
        s->lsr_errors |= LSR_OE;
        if (fifo_on(s))
            return;
        at = s->rx_head % FIFO_SIZE;
        s->rx_count = 0;
    }
    s->rx[at] = byte & word_mask(s);
    s->rx_errors[at] = errors;
    s->rx_count++;
    reveal_errors(s);
}

static uint8_t rx_pop(struct uart16550a *uart)
{
    struct uart16550a_state *s = &uart->state;
    uint8_t byte = s->rx[s->rx_head % FIFO_SIZE];

    if (!s->rx_count)
        return byte; /* what is left in the register */
    s->rx_active = clock_now(uart->dev.vm->clock);
    s->rx_count--;
    s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
    reveal_errors(s);
    return byte;
}

static void rx_clear(struct uart16550a_state *s)
{
    s->rx_head = 0;
    s->rx_count = 0;
    memset(s->rx_errors, 0, sizeof(s->rx_errors));
}

static bool listening(const struct uart16550a_state *s)
{
    if (s->mcr_written)
        return s->mcr & MCR_RTS;
    return (s->ier & IER_ERBFI) || s->lsr_polls >= LISTEN_POLLS;
}

static size_t can_receive(void *opaque)
{
    const struct uart16550a *uart = opaque;
    const struct uart16550a_state *s = &uart->state;

    if ((s->mcr & MCR_LOOP) || !listening(s))
        return 0;
    if (s->rx_ready_at > clock_now(uart->dev.vm->clock) || s->rx_count >= rx_depth(s))
        return 0;
    return rx_depth(s) - s->rx_count;
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
    struct uart16550a *uart = opaque;
    size_t room = can_receive(uart), n = len < room ? len : room;

    for (size_t i = 0; i < n; i++)
        rx_push(uart, data[i], 0);
    if (n)
        uart->state.rx_ready_at =
            clock_now(uart->dev.vm->clock) + (int64_t)n * char_ns(&uart->state);
    derive(&uart->dev);
}

/* Tells the back end that there is room. Last of all: it may call receive from in here. */
static void ask_for_input(struct uart16550a *uart)
{
    if (uart->chr && can_receive(uart))
        uart->chr->ops->accept_input(uart->chr);
}

static void fire(void *opaque)
{
    struct uart16550a *uart = opaque;

    derive(&uart->dev);
    ask_for_input(uart);
}

void uart16550a_receive_break(struct device *dev)
{
    rx_push((struct uart16550a *)dev, 0, LSR_BI);
    derive(dev);
}

/* ---- Writes --------------------------------------------------------------------------------- */

static void write_thr(struct uart16550a *uart, uint8_t val)
{
    struct uart16550a_state *s = &uart->state;
    uint8_t byte = val & word_mask(s);

    if (s->mcr & MCR_LOOP)
        rx_push(uart, byte, 0);
    else if (uart->chr && !(s->lcr & LCR_BREAK))
        uart->chr->ops->write(uart->chr, &byte, 1);
    s->thre_pending = false;
    s->thre_at = clock_now(uart->dev.vm->clock) + TX_BURST_NS;
}

static void write_fcr(struct uart16550a_state *s, uint8_t val)
{
    /* Switching the FIFOs on or off empties them; the other bits count with bit 0 set only (8.7).
     */
    if ((val ^ s->fcr) & FCR_ENABLE || ((val & FCR_ENABLE) && (val & FCR_RX_RESET)))
        rx_clear(s);
    if ((val & FCR_ENABLE) && (val & FCR_TX_RESET) && s->thre_at) {
        s->thre_at = 0;
        s->thre_pending = true;
    }
    s->fcr = val & FCR_ENABLE ? val & FCR_STORED : 0;
}

static void write_ier(struct uart16550a_state *s, uint8_t val)
{
    /* Enabling the interrupt of a transmitter that is empty raises it; Linux tests for that. */
    if ((val & IER_ETBEI) && !(s->ier & IER_ETBEI)) {
        s->thre_at = 0;
        s->thre_pending = true;
    }
    s->ier = val & IER_MASK;
}

static void write_mcr(struct uart16550a *uart, uint8_t val)
{
    struct uart16550a_state *s = &uart->state;
    uint8_t before = modem_lines(s->mcr, uart->chr);

    s->mcr = val & MCR_MASK;
    s->mcr_written = true;
    s->msr_deltas |= line_deltas(before, modem_lines(s->mcr, uart->chr));
}

static void uart_write(void *dev, uint64_t off, uint64_t val64, unsigned size)
{
    struct uart16550a *uart = dev;
    struct uart16550a_state *s = &uart->state;
    uint8_t val = (uint8_t)val64;

    (void)size;
    switch (off) {
    case RBR_THR:
        if (s->lcr & LCR_DLAB)
            s->dll = val;
        else
            write_thr(uart, val);
        break;
    case IER:
        if (s->lcr & LCR_DLAB)
            s->dlm = val;
        else
            write_ier(s, val);
        break;
    case IIR_FCR:
        write_fcr(s, val);
        break;
    case LCR:
        s->lcr = val;
        break;
    case MCR:
        write_mcr(uart, val);
        break;
    case LSR:
    case MSR:
        break; /* factory tests */
    case SCR:
        s->scr = val;
        break;
    }
    derive(&uart->dev);
    ask_for_input(uart);
}

/* ---- Reads ---------------------------------------------------------------------------------- */

static uint8_t read_iir(struct uart16550a_state *s, int64_t now)
{
    uint8_t id = iir(s, now);

    if (id == IIR_THRE)
        s->thre_pending = false;
    return id | (fifo_on(s) ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(struct uart16550a_state *s)
{
    uint8_t lsr = s->lsr_errors | LSR_THRE | LSR_TEMT | (s->rx_count ? LSR_DR : 0);

    for (unsigned i = 0; fifo_on(s) && i < s->rx_count; i++)
        if (s->rx_errors[(s->rx_head + i) % FIFO_SIZE])
            lsr |= LSR_FIFO_ERROR;
    if (fifo_on(s) && (s->lsr_errors & LSR_CHAR_ERRORS))
        lsr |= LSR_FIFO_ERROR;
    s->lsr_errors = 0;
    return lsr;
}

static uint64_t uart_read(void *dev, uint64_t off, unsigned size)
{
    struct uart16550a *uart = dev;
    struct uart16550a_state *s = &uart->state;
    uint8_t val = 0xff;

    (void)size;
    switch (off) {
    case RBR_THR:
        val = s->lcr & LCR_DLAB ? s->dll : rx_pop(uart);
        break;
    case IER:
        val = s->lcr & LCR_DLAB ? s->dlm : s->ier;
        break;
    case IIR_FCR:
        derive(&uart->dev); /* the transmitter may have become empty by now */
        val = read_iir(s, clock_now(uart->dev.vm->clock));
        break;
    case LCR:
        val = s->lcr;
        break;
    case MCR:
        val = s->mcr;
        break;
    case LSR:
        val = read_lsr(s);
        if (!s->mcr_written && s->lsr_polls < LISTEN_POLLS)
            s->lsr_polls++;
        break;
    case MSR:
        val = modem_lines(s->mcr, uart->chr) | s->msr_deltas;
        s->msr_deltas = 0;
        break;
    case SCR:
        val = s->scr;
        break;
    }
    derive(&uart->dev);
    ask_for_input(uart);
    return val;
}

/* ---- Life ----------------------------------------------------------------------------------- */

static void reset(struct device *dev, enum reset_kind kind)
{
    struct uart16550a *uart = (struct uart16550a *)dev;

    (void)kind;
    /*
     * Table II, but for the line: 115200 8N1 as firmware leaves it, not five bits at an undefined
     * rate, for the many small systems that write to the port without a word of set-up.
     */
    uart->state = (struct uart16550a_state){.lcr = LCR_WLS, .dll = 1};
}

static int check(struct device *dev, struct err *err)
{
    const struct uart16550a_state *s = &((struct uart16550a *)dev)->state;

    if ((s->fcr & ~FCR_STORED) || (s->fcr && !(s->fcr & FCR_ENABLE)))
        return err_set(err, EINVAL, "FCR has bits set that are never stored");
    if (s->rx_count > rx_depth(s))
        return err_set(err, EINVAL, "the receiver holds %u bytes without FIFO", s->rx_count);
    for (unsigned i = 0; i < FIFO_SIZE; i++)
        if (s->rx_errors[i] & ~LSR_CHAR_ERRORS)
            return err_set(err, EINVAL, "a received byte has impossible error bits");
    if (s->lsr_errors & ~LSR_ERRORS)
        return err_set(err, EINVAL, "LSR has bits set that are no errors");
    return 0;
}

static const struct io_reg regs[] = {
    {RBR_THR, 1, "RBR_THR_DLL"},
    {IER, 1, "IER_DLM"},
    {IIR_FCR, 1, "IIR_FCR"},
    {LCR, 1, "LCR"},
    {MCR, 1, "MCR"},
    {LSR, 1, "LSR"},
    {MSR, 1, "MSR"},
    {SCR, 1, "SCR"},
    {0, 0, NULL},
};
static const struct io_ops ops = {uart_read, uart_write, IO_1, regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    const struct uart16550a_config *cfg = config;
    struct uart16550a *uart = (struct uart16550a *)dev;

    if (!cfg->iobase || cfg->iobase % UART_PORTS)
        return err_set(err, EINVAL, "iobase %#x is no multiple of 8: use 0x3f8", cfg->iobase);
    uart->irq = cfg->irq;
    uart->chr = cfg->chr;
    uart->iobase = cfg->iobase;
    timer_init(&uart->timer, dev->vm->clock, "uart16550a", fire, uart);
    uart->region = region_io(dev, "uart16550a", UART_PORTS, &ops);
    return 0;
}

static void attach(struct device *dev)
{
    struct uart16550a *uart = (struct uart16550a *)dev;

    if (uart->chr) {
        uart->chr->can_receive = can_receive;
        uart->chr->receive = receive;
        uart->chr->opaque = uart;
    }
    bus_map(&dev->vm->ports, &uart->region, uart->iobase);
}

static void detach(struct device *dev)
{
    struct uart16550a *uart = (struct uart16550a *)dev;

    bus_unmap(&uart->region);
    timer_disarm(&uart->timer);
    if (uart->chr) {
        uart->chr->can_receive = NULL;
        uart->chr->receive = NULL;
        uart->chr->opaque = NULL;
    }
}

const struct dev_type uart16550a_type = {
    .name = "uart16550a",
    .desc = "16550A serial port",
    .size = sizeof(struct uart16550a),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .check = check,
    .derive = derive,
    .state = &state,
};
