/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042: the keyboard controller of a PC (ports 60h and 64h) with a PS/2 keyboard on its first port
 * and a PS/2 mouse on the second, and port 92h, which can do what the controller's output port
 * does: the A20 gate and a fast reset. There is one gate: it follows whichever of the two was
 * written last, and both read back what it is. Systems switch it off and on again by different
 * ways.
 *
 * IBM PS/2 Hardware Interface Technical Reference (1990), "Keyboard and Auxiliary Device
 * Controller", "Keyboards" and "Mouse"; Port 92h: Intel ICH9 data sheet, 316972, section 13.7.2.
 * IntelliMouse: the Microsoft wheel mouse protocol, three rates as a knock.
 *
 * Devices send a byte no sooner than BYTE_NS after the last one was read: the output buffer's
 * interrupt is a level, and an edge-triggered 8259 must see it fall in between. Replies of the
 * controller itself come at once.
 *
 * Not emulated: typematic repeat (the host repeats), scan code set 3, passwords, multiplexing of
 * four mice. A hostile guest reaches the queues, the A20 gate and a reset request.
 */
#include "hw/input/i8042.h"

#include <errno.h>
#include <string.h>

#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define DATA_PORT    0x60
#define COMMAND_PORT 0x64
#define PORT92       0x92

#define ST_OBF 0x01
#define ST_SYS 0x04
#define ST_CD  0x08 /* the last write went to port 64h */
#define ST_INH 0x10 /* the key lock is open */
#define ST_AUX 0x20 /* the byte in the output buffer is the mouse's */

/* The command byte, RAM byte 0. */
#define CB_INT         0x01
#define CB_INT_AUX     0x02
#define CB_SYS         0x04
#define CB_DISABLE     0x10
#define CB_DISABLE_AUX 0x20
#define CB_XLAT        0x40
#define CB_AFTER_RESET (CB_XLAT | CB_DISABLE_AUX | CB_SYS | CB_INT)

#define CMD_READ_RAM      0x20
#define CMD_WRITE_RAM     0x60
#define CMD_TEST_PASSWORD 0xa4
#define CMD_DISABLE_AUX   0xa7
#define CMD_ENABLE_AUX    0xa8
#define CMD_TEST_AUX      0xa9
#define CMD_SELF_TEST     0xaa
#define CMD_TEST_KBD      0xab
#define CMD_DISABLE_KBD   0xad
#define CMD_ENABLE_KBD    0xae
#define CMD_READ_INPUT    0xc0
#define CMD_READ_OUTPUT   0xd0
#define CMD_WRITE_OUTPUT  0xd1
#define CMD_WRITE_OBF     0xd2
#define CMD_WRITE_AUX_OBF 0xd3
#define CMD_WRITE_AUX     0xd4
#define CMD_A20_OFF       0xdd
#define CMD_A20_ON        0xdf
#define CMD_READ_TEST     0xe0
#define CMD_PULSE         0xf0 /* F0h to FFh: the output port bits that are 0 in the low nibble go low */

#define REPLY_NO_PASSWORD   0xf1
#define REPLY_SELF_TEST_OK  0x55
#define REPLY_PORT_OK       0x00
#define INPUT_PORT_UNLOCKED 0x80

/* Output port. */
#define OUT_RESET   0x01 /* low resets the processor */
#define OUT_A20     0x02
#define OUT_OBF     0x10
#define OUT_AUX_OBF 0x20
#define OUT_LINES   0xc0 /* keyboard clock and data, idle */

#define P92_INIT_NOW 0x01
#define P92_ALT_A20  0x02

/* What devices say. */
#define DEV_ACK    0xfa
#define DEV_RESEND 0xfe
#define DEV_BAT_OK 0xaa
#define DEV_ECHO   0xee

/* Keyboard commands. */
#define KBD_SET_LEDS          0xed
#define KBD_ECHO              0xee
#define KBD_SCAN_SET          0xf0
#define KBD_IDENTIFY          0xf2
#define KBD_TYPEMATIC         0xf3
#define KBD_ENABLE            0xf4
#define KBD_DISABLE           0xf5
#define KBD_DEFAULTS          0xf6
#define KBD_ALL_KEYS_FIRST    0xf7 /* F7h to FAh: key types of set 3 */
#define KBD_ALL_KEYS_LAST     0xfa
#define KBD_RESEND            0xfe
#define KBD_RESET             0xff
#define KBD_TYPEMATIC_DEFAULT 0x2b /* 500 ms, 10.9 per second */
#define BREAK                 0xf0 /* set 2: the next code is a release */
#define RELEASE               0x80 /* set 1 */

/* Mouse commands. */
#define MOUSE_SCALE_1            0xe6
#define MOUSE_SCALE_2            0xe7
#define MOUSE_RESOLUTION         0xe8
#define MOUSE_STATUS             0xe9
#define MOUSE_STREAM             0xea
#define MOUSE_READ               0xeb
#define MOUSE_WRAP_OFF           0xec
#define MOUSE_WRAP_ON            0xee
#define MOUSE_REMOTE             0xf0
#define MOUSE_IDENTIFY           0xf2
#define MOUSE_RATE               0xf3
#define MOUSE_ENABLE             0xf4
#define MOUSE_DISABLE            0xf5
#define MOUSE_DEFAULTS           0xf6
#define MOUSE_RESEND             0xfe
#define MOUSE_RESET              0xff
#define MOUSE_ID_PLAIN           0
#define MOUSE_ID_WHEEL           3
#define MOUSE_RATE_DEFAULT       100
#define MOUSE_RESOLUTION_DEFAULT 2 /* 4 counts per millimetre */
#define STATUS_SCALE_2           0x10
#define STATUS_ENABLED           0x20
#define STATUS_REMOTE            0x40
#define PACKET_ALWAYS            0x08
#define PACKET_X_SIGN            0x10
#define PACKET_Y_SIGN            0x20
#define BUTTONS                  0x07

#define BYTE_NS 400000 /* eleven bits of the serial line take 0.7 to 1.1 ms on the slowest */

#define RAM_BYTES  32
#define QUEUE_SIZE 32

/* ---- The device ----------------------------------------------------------------------------- */

struct queue {
    uint8_t data[QUEUE_SIZE];
    uint8_t head;
    uint8_t count;
};

struct keyboard {
    struct queue replies; /* go out before keys */
    struct queue keys;
    uint8_t command; /* waits for its parameter; 0: none */
    uint8_t set;     /* scan code set: 1 or 2 */
    uint8_t leds;
    uint8_t typematic;
    uint8_t last; /* byte sent, for Resend */
    bool scanning;
};

struct mouse {
    int32_t dx, dy, dz; /* moved and not reported yet */
    struct queue replies;
    struct queue packets;
    uint8_t command;
    uint8_t id;
    uint8_t rate;
    uint8_t resolution;
    uint8_t buttons;
    uint8_t reported; /* buttons of the last packet */
    uint8_t knock[2]; /* the two rates before this one */
    uint8_t last;
    bool scale_2;
    bool remote;
    bool wrap;
    bool enabled;
    uint8_t zero[3];
};

struct i8042 {
    struct device dev;

    /* wiring */
    struct i8042_config config;
    struct region data, command, port92;

    /* derived */
    struct timer timer;

    struct i8042_state {
        struct mouse mouse;
        struct keyboard kbd;
        struct queue own;       /* replies of the controller, as from the keyboard */
        uint8_t ram[RAM_BYTES]; /* byte 0 is the command byte */
        uint8_t out;            /* output buffer */
        uint8_t pending;        /* controller command that waits for its data; 0: none */
        uint8_t outport;        /* OUT_RESET and OUT_A20 */
        uint8_t port92;         /* INIT_NOW */
        bool obf;
        bool out_aux; /* the output buffer holds a byte of the mouse */
        bool last_command;
        bool xlat_break; /* translation has swallowed F0h */
        uint8_t zero[4];
        int64_t next_at; /* no byte of a device before this VM time */
    } state;
};

static const struct state_field queue_fields[] = {
    STATE_BYTES(struct queue, data),
    STATE_UINT(struct queue, head, 0, QUEUE_SIZE - 1),
    STATE_UINT(struct queue, count, 0, QUEUE_SIZE),
};

static const struct state_field kbd_fields[] = {
    STATE_STRUCT(struct keyboard, replies, queue_fields),
    STATE_STRUCT(struct keyboard, keys, queue_fields),
    STATE_UINT(struct keyboard, command, 0, 0xff),
    STATE_UINT(struct keyboard, set, 1, 2),
    STATE_UINT(struct keyboard, leds, 0, 0xff),
    STATE_UINT(struct keyboard, typematic, 0, 0xff),
    STATE_UINT(struct keyboard, last, 0, 0xff),
    STATE_BOOL(struct keyboard, scanning),
};

#define MAX_MOVE 100000

static const struct state_field mouse_fields[] = {
    STATE_INT(struct mouse, dx, -MAX_MOVE, MAX_MOVE),
    STATE_INT(struct mouse, dy, -MAX_MOVE, MAX_MOVE),
    STATE_INT(struct mouse, dz, -MAX_MOVE, MAX_MOVE),
    STATE_STRUCT(struct mouse, replies, queue_fields),
    STATE_STRUCT(struct mouse, packets, queue_fields),
    STATE_UINT(struct mouse, command, 0, 0xff),
    STATE_UINT(struct mouse, id, 0, MOUSE_ID_WHEEL),
    STATE_UINT(struct mouse, rate, 0, 0xff),
    STATE_UINT(struct mouse, resolution, 0, 3),
    STATE_UINT(struct mouse, buttons, 0, BUTTONS),
    STATE_UINT(struct mouse, reported, 0, BUTTONS),
    STATE_UINTS(struct mouse, knock, 0, 0xff),
    STATE_UINT(struct mouse, last, 0, 0xff),
    STATE_BOOL(struct mouse, scale_2),
    STATE_BOOL(struct mouse, remote),
    STATE_BOOL(struct mouse, wrap),
    STATE_BOOL(struct mouse, enabled),
    STATE_UINTS(struct mouse, zero, 0, 0),
};

static const struct state_field fields[] = {
    STATE_STRUCT(struct i8042_state, mouse, mouse_fields),
    STATE_STRUCT(struct i8042_state, kbd, kbd_fields),
    STATE_STRUCT(struct i8042_state, own, queue_fields),
    STATE_BYTES(struct i8042_state, ram),
    STATE_UINT(struct i8042_state, out, 0, 0xff),
    STATE_UINT(struct i8042_state, pending, 0, 0xff),
    STATE_UINT(struct i8042_state, outport, 0, OUT_RESET | OUT_A20),
    STATE_UINT(struct i8042_state, port92, 0, P92_INIT_NOW),
    STATE_BOOL(struct i8042_state, obf),
    STATE_BOOL(struct i8042_state, out_aux),
    STATE_BOOL(struct i8042_state, last_command),
    STATE_BOOL(struct i8042_state, xlat_break),
    STATE_UINTS(struct i8042_state, zero, 0, 0),
    STATE_INT(struct i8042_state, next_at, 0, INT64_MAX - 1),
};

static const struct state state = STATE(struct i8042, state, 1, fields);

/* ---- Pure helpers --------------------------------------------------------------------------- */

/* Scan code set 2 to set 1, as the controller translates; codes from 80h on stay, but for two. */
static const uint8_t set2_to_set1[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};
#define SET1_F7    0x41
#define SET2_F7    0x83
#define SET1_SYSRQ 0x54
#define SET2_SYSRQ 0x84

static uint8_t to_set1(uint8_t code)
{
    if (code == SET2_F7)
        return SET1_F7;
    if (code == SET2_SYSRQ)
        return SET1_SYSRQ;
    return code < 0x80 ? set2_to_set1[code & 0x7f] : code;
}

static uint8_t to_set2(uint8_t make)
{
    if (make == SET1_F7)
        return SET2_F7;
    if (make == SET1_SYSRQ)
        return SET2_SYSRQ;
    for (unsigned i = 0; i < ARRAY_LEN(set2_to_set1); i++)
        if (set2_to_set1[i] == make)
            return (uint8_t)i;
    return 0;
}

static bool push(struct queue *q, uint8_t byte)
{
    if (q->count >= QUEUE_SIZE)
        return false;
    q->data[(q->head + q->count) % QUEUE_SIZE] = byte;
    q->count++;
    return true;
}

/* The queue is not empty. */
static uint8_t pop(struct queue *q)
{
    uint8_t byte = q->data[q->head % QUEUE_SIZE];

    q->head = (q->head + 1) % QUEUE_SIZE;
    q->count--;
    return byte;
}

static void clear(struct queue *q)
{
    q->head = 0;
    q->count = 0;
}

static int32_t clamp(int64_t v, int32_t lo, int32_t hi)
{
    return v < lo ? lo : v > hi ? hi : (int32_t)v;
}

/* 2:1 scaling ("Mouse", Set Scaling 2:1). */
static int32_t scale(int32_t v, bool twice)
{
    static const uint8_t small[6] = {0, 1, 1, 3, 6, 9};
    int32_t a = v < 0 ? -v : v;

    if (!twice)
        return v;
    a = a < 6 ? small[a] : 2 * a;
    return v < 0 ? -a : a;
}

/* ---- The mouse ------------------------------------------------------------------------------ */

static void mouse_defaults(struct mouse *m)
{
    m->rate = MOUSE_RATE_DEFAULT;
    m->resolution = MOUSE_RESOLUTION_DEFAULT;
    m->scale_2 = false;
    m->remote = false;
    m->enabled = false;
    m->wrap = false;
    m->dx = m->dy = m->dz = 0;
    clear(&m->packets);
}

static void mouse_packet(struct mouse *m, struct queue *q, bool scaled)
{
    int32_t dx = clamp(m->dx, -255, 255), dy = clamp(m->dy, -255, 255);
    int32_t dz = clamp(m->dz, -8, 7);
    int32_t x = clamp(scale(dx, scaled), -255, 255), y = clamp(scale(dy, scaled), -255, 255);

    m->dx -= dx;
    m->dy -= dy;
    m->dz -= dz;
    m->reported = m->buttons;
    push(q, (uint8_t)(PACKET_ALWAYS | m->buttons | (x < 0 ? PACKET_X_SIGN : 0) |
                      (y < 0 ? PACKET_Y_SIGN : 0)));
    push(q, (uint8_t)x);
    push(q, (uint8_t)y);
    if (m->id == MOUSE_ID_WHEEL)
        push(q, (uint8_t)dz);
}

/* In stream mode there is at most one packet under way; what moves meanwhile adds up. */
static void mouse_stream(struct mouse *m)
{
    if (!m->enabled || m->remote || m->wrap || m->packets.count)
        return;
    if (m->id != MOUSE_ID_WHEEL)
        m->dz = 0;
    if (m->dx || m->dy || m->dz || m->buttons != m->reported)
        mouse_packet(m, &m->packets, m->scale_2);
}

static void mouse_set_rate(struct mouse *m, uint8_t rate)
{
    m->rate = rate;
    /* The knock of a wheel mouse: 200, 100, 80. */
    if (m->knock[0] == 200 && m->knock[1] == 100 && rate == 80)
        m->id = MOUSE_ID_WHEEL;
    m->knock[0] = m->knock[1];
    m->knock[1] = rate;
}

static void mouse_status(struct mouse *m)
{
    /* Its buttons are the other way round than a packet's. */
    push(&m->replies,
         (uint8_t)((m->remote ? STATUS_REMOTE : 0) | (m->enabled ? STATUS_ENABLED : 0) |
                   (m->scale_2 ? STATUS_SCALE_2 : 0) | (m->buttons & 1) << 2 |
                   (m->buttons & 4) >> 1 | (m->buttons & 2) >> 1));
    push(&m->replies, m->resolution);
    push(&m->replies, m->rate);
}

static void mouse_write(struct mouse *m, uint8_t val)
{
    uint8_t command = m->command;

    clear(&m->replies);
    m->command = 0;
    if (m->wrap && val != MOUSE_WRAP_OFF && val != MOUSE_RESET) {
        push(&m->replies, val);
        return;
    }
    if (command == MOUSE_RATE || command == MOUSE_RESOLUTION) {
        if (command == MOUSE_RATE)
            mouse_set_rate(m, val);
        else
            m->resolution = val & 3;
        push(&m->replies, DEV_ACK);
        return;
    }
    /* A command ends what was on its way. */
    if (val != MOUSE_RESEND) {
        clear(&m->packets);
        push(&m->replies, DEV_ACK);
    }
    switch (val) {
    case MOUSE_SCALE_1:
    case MOUSE_SCALE_2:
        m->scale_2 = val == MOUSE_SCALE_2;
        break;
    case MOUSE_RESOLUTION:
    case MOUSE_RATE:
        m->command = val;
        break;
    case MOUSE_STATUS:
        mouse_status(m);
        break;
    case MOUSE_STREAM:
    case MOUSE_REMOTE:
        m->remote = val == MOUSE_REMOTE;
        break;
    case MOUSE_READ:
        mouse_packet(m, &m->replies, false);
        break;
    case MOUSE_WRAP_OFF:
    case MOUSE_WRAP_ON:
        m->wrap = val == MOUSE_WRAP_ON;
        break;
    case MOUSE_IDENTIFY:
        push(&m->replies, m->id);
        break;
    case MOUSE_ENABLE:
    case MOUSE_DISABLE:
        m->enabled = val == MOUSE_ENABLE;
        break;
    case MOUSE_DEFAULTS:
        mouse_defaults(m);
        break;
    case MOUSE_RESEND:
        push(&m->replies, m->last);
        break;
    case MOUSE_RESET:
        mouse_defaults(m);
        m->id = MOUSE_ID_PLAIN;
        push(&m->replies, DEV_BAT_OK);
        push(&m->replies, m->id);
        break;
    default:
        clear(&m->replies);
        push(&m->replies, DEV_RESEND);
        break;
    }
}

/* ---- The keyboard --------------------------------------------------------------------------- */

static void kbd_defaults(struct keyboard *k)
{
    k->typematic = KBD_TYPEMATIC_DEFAULT;
    k->set = 2;
    clear(&k->keys);
}

static void kbd_parameter(struct keyboard *k, uint8_t command, uint8_t val)
{
    switch (command) {
    case KBD_SET_LEDS:
        k->leds = val & 7;
        break;
    case KBD_TYPEMATIC:
        k->typematic = val & 0x7f;
        break;
    case KBD_SCAN_SET:
        if (val > 2) {
            push(&k->replies, DEV_RESEND);
            return;
        }
        push(&k->replies, DEV_ACK);
        if (val == 0)
            push(&k->replies, k->set);
        else
            k->set = val;
        return;
    }
    push(&k->replies, DEV_ACK);
}

static void kbd_write(struct keyboard *k, uint8_t val)
{
    uint8_t command = k->command;

    clear(&k->replies);
    k->command = 0;
    /* A byte that can not be a parameter is the next command. */
    if (command && val < KBD_SET_LEDS) {
        kbd_parameter(k, command, val);
        return;
    }
    switch (val) {
    case KBD_ECHO:
        push(&k->replies, DEV_ECHO);
        break;
    case KBD_SET_LEDS:
    case KBD_SCAN_SET:
    case KBD_TYPEMATIC:
        k->command = val;
        push(&k->replies, DEV_ACK);
        break;
    case KBD_IDENTIFY:
        push(&k->replies, DEV_ACK);
        push(&k->replies, 0xab); /* MF2 keyboard */
        push(&k->replies, 0x83);
        break;
    case KBD_ENABLE:
        clear(&k->keys);
        k->scanning = true;
        push(&k->replies, DEV_ACK);
        break;
    case KBD_DISABLE:
    case KBD_DEFAULTS:
        kbd_defaults(k);
        if (val == KBD_DISABLE)
            k->scanning = false;
        push(&k->replies, DEV_ACK);
        break;
    case KBD_RESEND:
        push(&k->replies, k->last);
        break;
    case KBD_RESET:
        kbd_defaults(k);
        k->leds = 0;
        k->scanning = true;
        push(&k->replies, DEV_ACK);
        push(&k->replies, DEV_BAT_OK);
        break;
    default:
        push(&k->replies,
             val >= KBD_ALL_KEYS_FIRST && val <= KBD_ALL_KEYS_LAST ? DEV_ACK : DEV_RESEND);
        break;
    }
}

/* ---- The output buffer ---------------------------------------------------------------------- */

/* What the controller makes of a byte from the keyboard; false: nothing yet. */
static bool translate(struct i8042_state *s, uint8_t *byte)
{
    if (!(s->ram[0] & CB_XLAT))
        return true;
    if (*byte == BREAK) {
        s->xlat_break = true;
        return false;
    }
    *byte = to_set1(*byte) | (s->xlat_break ? RELEASE : 0);
    s->xlat_break = false;
    return true;
}

static struct queue *kbd_source(struct i8042_state *s)
{
    if (s->ram[0] & CB_DISABLE)
        return NULL;
    return s->kbd.replies.count ? &s->kbd.replies : s->kbd.keys.count ? &s->kbd.keys : NULL;
}

static struct queue *mouse_source(struct i8042_state *s)
{
    if (s->ram[0] & CB_DISABLE_AUX)
        return NULL;
    return s->mouse.replies.count   ? &s->mouse.replies
           : s->mouse.packets.count ? &s->mouse.packets
                                    : NULL;
}

static void fill(struct i8042_state *s, uint8_t byte, bool aux)
{
    s->obf = true;
    s->out = byte;
    s->out_aux = aux;
}

/* Moves the next byte into the output buffer, if it is free and the time has come. */
static void pump(struct i8042_state *s, int64_t now)
{
    struct queue *q;

    if (!s->obf && s->own.count)
        fill(s, pop(&s->own), false);
    /* Translation may swallow bytes; each turn takes one out of a queue. */
    while (!s->obf && now >= s->next_at && (q = kbd_source(s))) {
        uint8_t byte = pop(q);

        s->kbd.last = byte;
        if (translate(s, &byte))
            fill(s, byte, false);
    }
    if (!s->obf && now >= s->next_at && (q = mouse_source(s))) {
        s->mouse.last = pop(q);
        fill(s, s->mouse.last, true);
    }
}

/* ---- Derive --------------------------------------------------------------------------------- */

static void drive_irqs(struct i8042 *kbc)
{
    const struct i8042_state *s = &kbc->state;

    irq_set(kbc->config.irq_kbd, s->obf && !s->out_aux && (s->ram[0] & CB_INT));
    irq_set(kbc->config.irq_mouse, s->obf && s->out_aux && (s->ram[0] & CB_INT_AUX));
}

static void derive(struct device *dev)
{
    struct i8042 *kbc = (struct i8042 *)dev;
    struct i8042_state *s = &kbc->state;

    mouse_stream(&s->mouse);
    pump(s, clock_now(dev->vm->clock));
    drive_irqs(kbc);
    if (kbc->config.set_a20)
        kbc->config.set_a20(kbc->config.a20_opaque, s->outport & OUT_A20);
    if (!s->obf && (kbd_source(s) || mouse_source(s)))
        timer_arm(&kbc->timer, s->next_at);
    else
        timer_disarm(&kbc->timer);
}

static void fire(void *opaque)
{
    derive(opaque);
}

/* ---- Writes --------------------------------------------------------------------------------- */

/* The controller answers a command; what it said before and nobody read is gone. */
static void reply(struct i8042_state *s, uint8_t byte)
{
    clear(&s->own);
    push(&s->own, byte);
}

static void write_outport(struct i8042 *kbc, uint8_t val)
{
    kbc->state.outport = val & (OUT_RESET | OUT_A20);
    if (!(val & OUT_RESET))
        vm_request(kbc->dev.vm, VM_REQUEST_RESET, 0);
}

static uint8_t read_outport(const struct i8042_state *s)
{
    return (uint8_t)(OUT_LINES | s->outport | (s->obf && !s->out_aux ? OUT_OBF : 0) |
                     (s->obf && s->out_aux ? OUT_AUX_OBF : 0));
}

static void write_command(struct i8042 *kbc, uint8_t val)
{
    struct i8042_state *s = &kbc->state;

    s->pending = 0;
    if (val >= CMD_READ_RAM && val < CMD_READ_RAM + RAM_BYTES) {
        reply(s, s->ram[val % RAM_BYTES]);
        return;
    }
    if (val >= CMD_WRITE_RAM && val < CMD_WRITE_RAM + RAM_BYTES) {
        s->pending = val;
        return;
    }
    switch (val) {
    case CMD_TEST_PASSWORD:
        reply(s, REPLY_NO_PASSWORD);
        break;
    case CMD_DISABLE_AUX:
        s->ram[0] |= CB_DISABLE_AUX;
        break;
    case CMD_ENABLE_AUX:
        s->ram[0] &= (uint8_t)~CB_DISABLE_AUX;
        break;
    case CMD_TEST_AUX:
    case CMD_TEST_KBD:
        reply(s, REPLY_PORT_OK);
        break;
    case CMD_SELF_TEST:
        s->ram[0] |= CB_SYS;
        s->xlat_break = false;
        reply(s, REPLY_SELF_TEST_OK);
        break;
    case CMD_DISABLE_KBD:
        s->ram[0] |= CB_DISABLE;
        break;
    case CMD_ENABLE_KBD:
        s->ram[0] &= (uint8_t)~CB_DISABLE;
        break;
    case CMD_READ_INPUT:
        reply(s, INPUT_PORT_UNLOCKED);
        break;
    case CMD_READ_OUTPUT:
        reply(s, read_outport(s));
        break;
    case CMD_WRITE_OUTPUT:
    case CMD_WRITE_OBF:
    case CMD_WRITE_AUX_OBF:
    case CMD_WRITE_AUX:
        s->pending = val;
        break;
    case CMD_A20_OFF:
        s->outport &= (uint8_t)~OUT_A20;
        break;
    case CMD_A20_ON:
        s->outport |= OUT_A20;
        break;
    case CMD_READ_TEST:
        reply(s, 0);
        break;
    default:
        if (val >= CMD_PULSE && !(val & OUT_RESET))
            vm_request(kbc->dev.vm, VM_REQUEST_RESET, 0);
        break;
    }
}

/* A byte goes down a device's line; its answer takes a while. */
static void write_device(struct i8042 *kbc, bool mouse, uint8_t val)
{
    struct i8042_state *s = &kbc->state;

    /* Sending switches the line on. */
    s->ram[0] &= (uint8_t) ~(mouse ? CB_DISABLE_AUX : CB_DISABLE);
    if (mouse) {
        mouse_write(&s->mouse, val);
    } else {
        s->xlat_break = false;
        kbd_write(&s->kbd, val);
    }
    s->next_at = clock_now(kbc->dev.vm->clock) + BYTE_NS;
}

static void write_data(struct i8042 *kbc, uint8_t val)
{
    struct i8042_state *s = &kbc->state;
    uint8_t command = s->pending;

    s->pending = 0;
    if (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + RAM_BYTES) {
        s->ram[command % RAM_BYTES] = val;
        return;
    }
    switch (command) {
    case CMD_WRITE_OUTPUT:
        write_outport(kbc, val);
        break;
    case CMD_WRITE_OBF:
        fill(s, val, false);
        break;
    case CMD_WRITE_AUX_OBF:
        fill(s, val, true);
        break;
    case CMD_WRITE_AUX:
        write_device(kbc, true, val);
        break;
    default:
        write_device(kbc, false, val);
        break;
    }
}

static void data_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct i8042 *kbc = dev;

    (void)off;
    (void)size;
    kbc->state.last_command = false;
    write_data(kbc, (uint8_t)val);
    derive(&kbc->dev);
}

static void command_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct i8042 *kbc = dev;

    (void)off;
    (void)size;
    kbc->state.last_command = true;
    write_command(kbc, (uint8_t)val);
    derive(&kbc->dev);
}

static void port92_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct i8042 *kbc = dev;
    struct i8042_state *s = &kbc->state;
    uint8_t rose = (uint8_t)(val & ~s->port92);

    (void)off;
    (void)size;
    s->port92 = val & P92_INIT_NOW;
    s->outport = (uint8_t)((s->outport & ~OUT_A20) | (val & P92_ALT_A20 ? OUT_A20 : 0));
    if (rose & P92_INIT_NOW)
        vm_request(kbc->dev.vm, VM_REQUEST_RESET, 0);
    derive(&kbc->dev);
}

/* ---- Reads ---------------------------------------------------------------------------------- */

static uint64_t data_read(void *dev, uint64_t off, unsigned size)
{
    struct i8042 *kbc = dev;
    struct i8042_state *s = &kbc->state;
    uint8_t byte;

    (void)off;
    (void)size;
    if (s->obf) {
        s->obf = false;
        s->next_at = clock_now(kbc->dev.vm->clock) + BYTE_NS;
        /* The lines fall before the controller's own next byte raises them again. */
        drive_irqs(kbc);
    }
    byte = s->out;
    derive(&kbc->dev);
    return byte;
}

static uint64_t status_read(void *dev, uint64_t off, unsigned size)
{
    struct i8042 *kbc = dev;
    const struct i8042_state *s = &kbc->state;

    (void)off;
    (void)size;
    derive(&kbc->dev);
    return (s->obf ? ST_OBF : 0u) | (s->ram[0] & CB_SYS ? ST_SYS : 0u) |
           (s->last_command ? ST_CD : 0u) | ST_INH | (s->obf && s->out_aux ? ST_AUX : 0u);
}

static uint64_t port92_read(void *dev, uint64_t off, unsigned size)
{
    const struct i8042_state *s = &((struct i8042 *)dev)->state;

    (void)off;
    (void)size;
    return s->port92 | (s->outport & OUT_A20 ? P92_ALT_A20 : 0u);
}

/* ---- The control plane ---------------------------------------------------------------------- */

bool i8042_key(struct device *dev, uint8_t scancode_set1)
{
    struct i8042 *kbc = (struct i8042 *)dev;
    struct keyboard *k = &kbc->state.kbd;
    bool prefix = scancode_set1 == 0xe0 || scancode_set1 == 0xe1;

    if (!k->scanning || k->keys.count > QUEUE_SIZE - 2)
        return false;
    if (k->set == 1 || prefix) {
        push(&k->keys, scancode_set1);
    } else {
        if (scancode_set1 & RELEASE)
            push(&k->keys, BREAK);
        push(&k->keys, to_set2(scancode_set1 & (uint8_t)~RELEASE));
    }
    derive(dev);
    return true;
}

void i8042_mouse(struct device *dev, int dx, int dy, int dz, uint8_t buttons)
{
    struct mouse *m = &((struct i8042 *)dev)->state.mouse;

    m->dx = clamp((int64_t)m->dx + dx, -MAX_MOVE, MAX_MOVE);
    m->dy = clamp((int64_t)m->dy + dy, -MAX_MOVE, MAX_MOVE);
    m->dz = clamp((int64_t)m->dz + dz, -MAX_MOVE, MAX_MOVE);
    m->buttons = buttons & BUTTONS;
    derive(dev);
}

/* ---- Life ----------------------------------------------------------------------------------- */

/*
 * The controller comes up as firmware leaves it (translating, keyboard interrupt on, mouse off),
 * for systems started without firmware; firmware tests and programs it anyway.
 */
static void reset(struct device *dev, enum reset_kind kind)
{
    struct i8042_state *s = &((struct i8042 *)dev)->state;

    (void)kind;
    memset(s, 0, sizeof(*s));
    s->ram[0] = CB_AFTER_RESET;
    s->outport = OUT_RESET | OUT_A20;
    kbd_defaults(&s->kbd);
    s->kbd.scanning = true;
    mouse_defaults(&s->mouse);
}

static int check(struct device *dev, struct err *err)
{
    const struct i8042_state *s = &((struct i8042 *)dev)->state;

    if (s->mouse.id != MOUSE_ID_PLAIN && s->mouse.id != MOUSE_ID_WHEEL)
        return err_set(err, EINVAL, "the mouse has the unknown id %u", s->mouse.id);
    return 0;
}

static const struct io_reg data_regs[] = {{0, 1, "DATA"}, {0, 0, NULL}};
static const struct io_reg command_regs[] = {{0, 1, "STATUS_COMMAND"}, {0, 0, NULL}};
static const struct io_reg port92_regs[] = {{0, 1, "PORT92"}, {0, 0, NULL}};
static const struct io_ops data_ops = {data_read, data_write, IO_1, data_regs, false};
static const struct io_ops command_ops = {status_read, command_write, IO_1, command_regs, false};
static const struct io_ops port92_ops = {port92_read, port92_write, IO_1, port92_regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    struct i8042 *kbc = (struct i8042 *)dev;

    (void)err;
    kbc->config = *(const struct i8042_config *)config;
    timer_init(&kbc->timer, dev->vm->clock, "i8042", fire, kbc);
    kbc->data = region_io(dev, "i8042 data", 1, &data_ops);
    kbc->command = region_io(dev, "i8042 command", 1, &command_ops);
    kbc->port92 = region_io(dev, "port92", 1, &port92_ops);
    return 0;
}

static void attach(struct device *dev)
{
    struct i8042 *kbc = (struct i8042 *)dev;

    bus_map(&dev->vm->ports, &kbc->data, DATA_PORT);
    bus_map(&dev->vm->ports, &kbc->command, COMMAND_PORT);
    bus_map(&dev->vm->ports, &kbc->port92, PORT92);
}

static void detach(struct device *dev)
{
    struct i8042 *kbc = (struct i8042 *)dev;

    bus_unmap(&kbc->data);
    bus_unmap(&kbc->command);
    bus_unmap(&kbc->port92);
    timer_disarm(&kbc->timer);
}

const struct dev_type i8042_type = {
    .name = "i8042",
    .desc = "8042 keyboard controller with PS/2 keyboard and mouse, and port 92h",
    .size = sizeof(struct i8042),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .check = check,
    .derive = derive,
    .state = &state,
};
