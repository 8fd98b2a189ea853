/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/input/i8042.h"

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define DATA   0x60
#define CMD    0x64
#define PORT92 0x92

#define OBF     0x01
#define AUX     0x20
#define NOTHING 0x100 /* what next() gives when no byte comes */

struct fixture {
    struct testvm *tv;
    struct device *kbc;
    struct testvm_irq kbd, mouse;
    bool a20;
};

static void set_a20(void *opaque, bool on)
{
    ((struct fixture *)opaque)->a20 = on;
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct i8042_config config = {.set_a20 = set_a20, .a20_opaque = f};

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->kbd, 1);
    testvm_irq_init(f->tv, &f->mouse, 12);
    config.irq_kbd = testvm_irq_source(&f->kbd);
    config.irq_mouse = testvm_irq_source(&f->mouse);
    f->kbc = testvm_add(f->tv, &i8042_type, &config);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static void cmd(struct fixture *f, uint8_t val)
{
    testvm_outb(f->tv, CMD, val);
}

static void data(struct fixture *f, uint8_t val)
{
    testvm_outb(f->tv, DATA, val);
}

static void mouse_cmd(struct fixture *f, uint8_t val)
{
    cmd(f, 0xd4);
    data(f, val);
}

/* The next byte, waiting as a driver would; NOTHING after 10 ms. */
static unsigned next(struct fixture *f)
{
    for (unsigned i = 0; i < 100 && !(testvm_inb(f->tv, CMD) & OBF); i++)
        testvm_advance(f->tv, 100 * NS_PER_US);
    return testvm_inb(f->tv, CMD) & OBF ? testvm_inb(f->tv, DATA) : NOTHING;
}

/* What comes next, byte by byte. */
static void gives(struct fixture *f, const unsigned *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(next(f), want[i]);
}

#define GIVES(f, ...) \
    gives(f, (const unsigned[]){__VA_ARGS__}, ARRAY_LEN(((const unsigned[]){__VA_ARGS__})))

/* To the keyboard and to the mouse, which acknowledge. */
static void key_cmd(struct fixture *f, uint8_t val)
{
    data(f, val);
    assert_int_equal(next(f), 0xfa);
}

static void mouse_ack(struct fixture *f, uint8_t val)
{
    mouse_cmd(f, val);
    assert_int_equal(next(f), 0xfa);
}

static void key(struct fixture *f, uint8_t scancode)
{
    TESTVM_LOCKED(f->tv, i8042_key(f->kbc, scancode));
}

static void move(struct fixture *f, int dx, int dy, int dz, uint8_t buttons)
{
    TESTVM_LOCKED(f->tv, i8042_mouse(f->kbc, dx, dy, dz, buttons));
}

/* What the controller answers to a command, and what comes of a key. */
static unsigned ask(struct fixture *f, uint8_t command)
{
    cmd(f, command);
    return next(f);
}

static unsigned typed(struct fixture *f, uint8_t scancode)
{
    key(f, scancode);
    return next(f);
}

static void command_byte(struct fixture *f, uint8_t val)
{
    cmd(f, 0x60);
    data(f, val);
}

/* ---- The controller ---- */

TEST_F(self_tests_pass)
{
    assert_int_equal(ask(f, 0xaa), 0x55);
    assert_int_equal(ask(f, 0xab), 0x00);
    assert_int_equal(ask(f, 0xa9), 0x00);
    assert_int_equal(ask(f, 0xa4), 0xf1);
    assert_int_equal(ask(f, 0xc0), 0x80);
    assert_int_equal(ask(f, 0xe0), 0x00);
}

TEST_F(command_byte_and_ram_are_read_back)
{
    command_byte(f, 0x47);
    assert_int_equal(ask(f, 0x20), 0x47);
    cmd(f, 0x7f);
    data(f, 0x99);
    assert_int_equal(ask(f, 0x3f), 0x99);
}

TEST_F(enable_and_disable_commands_show_in_the_command_byte)
{
    static const struct {
        uint8_t cmd, want;
    } steps[] = {{0xad, 0x10}, {0xa7, 0x30}, {0xae, 0x20}, {0xa8, 0x00}};

    command_byte(f, 0);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        cmd(f, steps[i].cmd);
        cmd(f, 0x20);
        assert_int_equal(next(f), steps[i].want);
    }
}

TEST_F(status_tells_commands_from_data)
{
    cmd(f, 0xae);
    assert_int_equal(testvm_inb(f->tv, CMD), 0x1c);
    data(f, 0xf4);
    assert_int_equal(testvm_inb(f->tv, CMD) & 0x08, 0);
}

/* Linux: i8042_check_aux(), and the loop that tells a multiplexer from none. */
TEST_F(bytes_loop_back_as_keyboard_and_as_mouse)
{
    command_byte(f, 0x03);
    cmd(f, 0xd3);
    data(f, 0x5a);
    assert_int_equal(testvm_inb(f->tv, CMD) & (OBF | AUX), OBF | AUX);
    assert_true(f->mouse.level);
    assert_false(f->kbd.level);
    assert_int_equal(next(f), 0x5a);
    assert_false(f->mouse.level);
    cmd(f, 0xd2);
    data(f, 0xa5);
    assert_int_equal(testvm_inb(f->tv, CMD) & (OBF | AUX), OBF);
    assert_true(f->kbd.level);
    assert_int_equal(next(f), 0xa5);
}

TEST_F(a20_follows_output_port_and_port_92)
{
    assert_true(f->a20);
    cmd(f, 0xd1);
    data(f, 0xdd);
    assert_false(f->a20);
    cmd(f, 0xd0);
    assert_int_equal(next(f) & 0x03, 0x01);
    testvm_outb(f->tv, PORT92, 0x02);
    assert_true(f->a20);
    assert_int_equal(testvm_inb(f->tv, PORT92), 0x02);
    testvm_outb(f->tv, PORT92, 0x00);
    assert_false(f->a20);
    cmd(f, 0xdf);
    assert_true(f->a20);
    cmd(f, 0xdd);
    assert_false(f->a20);
}

TEST_F(output_port_shows_the_buffer)
{
    cmd(f, 0xd2);
    data(f, 1);
    cmd(f, 0xd0);
    assert_int_equal(testvm_inb(f->tv, DATA), 1);
    assert_int_equal(next(f), 0xd3); /* as it was when the command came */
}

TEST_F(every_way_to_reset_is_a_request)
{
    cmd(f, 0xfe);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_RESET);
    cmd(f, 0xf0);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_RESET);
    cmd(f, 0xff); /* pulses nothing: Linux ends many commands with it */
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
    cmd(f, 0xd1);
    data(f, 0x02);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_RESET);
    testvm_outb(f->tv, PORT92, 0x01);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_RESET);
    testvm_outb(f->tv, PORT92, 0x01); /* only the rise counts */
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
}

TEST_F(interrupt_falls_between_two_bytes)
{
    key(f, 0x1e);
    key(f, 0x9e);
    assert_true(f->kbd.level);
    assert_int_equal(testvm_inb(f->tv, DATA), 0x1e);
    assert_false(f->kbd.level);
    assert_int_equal(testvm_inb(f->tv, CMD) & OBF, 0);
    testvm_advance(f->tv, NS_PER_MS);
    assert_true(f->kbd.level);
    assert_int_equal(f->kbd.rises, 2);
    assert_int_equal(testvm_inb(f->tv, DATA), 0x9e);
}

TEST_F(reply_behind_a_key_raises_a_new_edge)
{
    key(f, 0x1e);
    cmd(f, 0x20);
    assert_int_equal(testvm_inb(f->tv, DATA), 0x1e);
    assert_int_equal(f->kbd.rises, 2);
    assert_int_equal(testvm_inb(f->tv, DATA), 0x65);
}

TEST_F(disabled_keyboard_holds_its_bytes)
{
    cmd(f, 0xad);
    assert_int_equal(typed(f, 0x1e), NOTHING);
    assert_int_equal(ask(f, 0xae), 0x1e);
}

TEST_F(interrupts_obey_the_command_byte)
{
    command_byte(f, 0x40);
    key(f, 0x1e);
    assert_false(f->kbd.level);
    command_byte(f, 0x41);
    assert_true(f->kbd.level);
}

TEST_F(unknown_commands_do_nothing)
{
    assert_int_equal(ask(f, 0xb5), NOTHING);
}

/* ---- The keyboard ---- */

TEST_F(keyboard_resets_and_passes_its_test)
{
    key_cmd(f, 0xff);
    GIVES(f, 0xaa, NOTHING);
}

TEST_F(keyboard_identifies_itself_through_translation)
{
    key_cmd(f, 0xf2);
    GIVES(f, 0xab, 0x41);
    command_byte(f, 0x00);
    key_cmd(f, 0xf2);
    GIVES(f, 0xab, 0x83);
}

TEST_F(keyboard_takes_parameters)
{
    key_cmd(f, 0xed);
    key_cmd(f, 0x07);
    key_cmd(f, 0xf3);
    key_cmd(f, 0x00);
    key_cmd(f, 0xed); /* no parameter after all, but a command */
    data(f, 0xee);
    assert_int_equal(next(f), 0xee);
}

TEST_F(keyboard_scan_set_can_be_asked_and_set)
{
    command_byte(f, 0x00);
    key_cmd(f, 0xf0);
    key_cmd(f, 0x00);
    assert_int_equal(next(f), 2);
    key_cmd(f, 0xf0);
    key_cmd(f, 0x01);
    key(f, 0xe0);
    key(f, 0xc8);
    GIVES(f, 0xe0, 0xc8);
    key_cmd(f, 0xf0);
    data(f, 0x03);
    assert_int_equal(next(f), 0xfe); /* no set 3 */
}

TEST_F(keys_arrive_in_set_2_without_translation)
{
    command_byte(f, 0x00);
    assert_int_equal(typed(f, 0x1e), 0x1c); /* A */
    key(f, 0x9e);
    GIVES(f, 0xf0, 0x1c);
    assert_int_equal(typed(f, 0x41), 0x83); /* F7 */
    assert_int_equal(typed(f, 0x54), 0x84); /* SysRq */
    key(f, 0xe0);
    key(f, 0xd0); /* down, released */
    GIVES(f, 0xe0, 0xf0, 0x72);
}

TEST_F(translation_gives_back_every_set_1_code)
{
    for (unsigned code = 1; code <= 0x58; code++) {
        assert_int_equal(typed(f, (uint8_t)code), code);
        assert_int_equal(typed(f, (uint8_t)(code | 0x80)), code | 0x80);
    }
}

TEST_F(pause_key_keeps_its_sequence)
{
    static const uint8_t pause[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};

    for (unsigned i = 0; i < ARRAY_LEN(pause); i++)
        key(f, pause[i]);
    for (unsigned i = 0; i < ARRAY_LEN(pause); i++)
        assert_int_equal(next(f), pause[i]);
}

TEST_F(keyboard_that_does_not_scan_loses_keys)
{
    key_cmd(f, 0xf5);
    assert_false(i8042_key(f->kbc, 0x1e));
    key_cmd(f, 0xf4);
    assert_int_equal(typed(f, 0x1e), 0x1e);
}

TEST_F(full_keyboard_buffer_says_so)
{
    unsigned taken = 0;

    while (i8042_key(f->kbc, 0x1e))
        taken++;
    assert_in_range(taken, 16, 32);
    for (unsigned i = 0; i < taken; i++)
        assert_int_equal(next(f), 0x1e);
    assert_int_equal(next(f), NOTHING);
}

TEST_F(keyboard_resends_and_refuses)
{
    assert_int_equal(typed(f, 0x1e), 0x1e);
    data(f, 0xfe);
    assert_int_equal(next(f), 0x1e);
    data(f, 0x05);
    assert_int_equal(next(f), 0xfe);
    key_cmd(f, 0xfa); /* a set 3 command: acknowledged */
    key_cmd(f, 0xf6);
}

/* ---- The mouse ---- */

TEST_F(mouse_resets_and_identifies)
{
    command_byte(f, 0x47);
    mouse_ack(f, 0xff);
    GIVES(f, 0xaa, 0x00);
    mouse_ack(f, 0xf2);
    assert_true(testvm_inb(f->tv, CMD) & AUX || !(testvm_inb(f->tv, CMD) & OBF));
    assert_int_equal(next(f), 0x00);
}

TEST_F(mouse_streams_packets_once_enabled)
{
    command_byte(f, 0x47);
    move(f, 5, 5, 0, 0);
    assert_int_equal(next(f), NOTHING);
    mouse_ack(f, 0xf6); /* forgets what moved */
    mouse_ack(f, 0xf4);
    move(f, 3, -2, 0, 1);
    testvm_advance(f->tv, NS_PER_MS);
    assert_true(f->mouse.level);
    GIVES(f, 0x29, 3, 0xfe, NOTHING);
}

TEST_F(large_movements_take_several_packets)
{
    mouse_ack(f, 0xf4);
    move(f, 300, -300, 0, 0);
    GIVES(f, 0x28, 255, 1, 0x28, 45, 256 - 45, NOTHING);
    move(f, 1 << 30, 0, 0, 0);
    move(f, 1 << 30, 0, 0, 0);
    assert_int_equal(next(f), 0x08);
}

TEST_F(knocking_turns_it_into_a_wheel_mouse)
{
    static const uint8_t knock[] = {0xf3, 200, 0xf3, 100, 0xf3, 80};

    for (unsigned i = 0; i < ARRAY_LEN(knock); i++) {
        mouse_cmd(f, knock[i]);
        assert_int_equal(next(f), 0xfa);
    }
    mouse_ack(f, 0xf2);
    assert_int_equal(next(f), 3);
    mouse_ack(f, 0xf4);
    move(f, 0, 0, -1, 0);
    GIVES(f, 0x08, 0, 0, 0xff);
}

TEST_F(wheel_of_a_plain_mouse_says_nothing)
{
    mouse_ack(f, 0xf4);
    move(f, 0, 0, 3, 0);
    assert_int_equal(next(f), NOTHING);
}

TEST_F(remote_mode_reports_when_asked)
{
    mouse_ack(f, 0xf0);
    mouse_ack(f, 0xf4);
    move(f, 7, 0, 0, 4);
    assert_int_equal(next(f), NOTHING);
    mouse_ack(f, 0xeb);
    GIVES(f, 0x0c, 7, 0);
    mouse_ack(f, 0xea);
}

TEST_F(scaling_doubles_streamed_movement)
{
    static const uint8_t in[] = {1, 2, 3, 4, 5, 6}, want[] = {1, 1, 3, 6, 9, 12};

    mouse_ack(f, 0xe7);
    mouse_ack(f, 0xf4);
    for (unsigned i = 0; i < ARRAY_LEN(in); i++) {
        move(f, in[i], -in[i], 0, 0);
        next(f);
        assert_int_equal(next(f), want[i]);
        assert_int_equal(next(f), 256 - want[i]);
    }
    mouse_ack(f, 0xe6);
    move(f, 6, 0, 0, 0);
    next(f);
    assert_int_equal(next(f), 6);
}

TEST_F(mouse_status_shows_its_settings)
{
    mouse_ack(f, 0xe8);
    mouse_ack(f, 0x03);
    mouse_ack(f, 0xe7);
    mouse_ack(f, 0xf4);
    mouse_ack(f, 0xe9);
    GIVES(f, 0x30, 3, 100);
    mouse_ack(f, 0xf5);
    mouse_ack(f, 0xe9);
    assert_int_equal(next(f), 0x10);
}

TEST_F(wrap_mode_echoes_all_but_its_end)
{
    mouse_ack(f, 0xee);
    mouse_cmd(f, 0xf4);
    assert_int_equal(next(f), 0xf4);
    mouse_ack(f, 0xec);
    mouse_cmd(f, 0xfe);
    assert_int_equal(next(f), 0xfa); /* the last byte sent */
    mouse_cmd(f, 0x11);
    assert_int_equal(next(f), 0xfe);
}

/* ---- State ---- */

TEST_F(state_survives_with_bytes_on_their_way)
{
    mouse_cmd(f, 0xf4);
    key(f, 0x1e);
    key(f, 0x9e);
    move(f, 300, 1, 0, 2);
    cmd(f, 0xd1);
    testvm_state_roundtrip(f->kbc);
    data(f, 0x01);
    assert_false(f->a20);
}

TEST_F(state_moves_to_another_vm)
{
    struct testvm *other = testvm_new();
    struct device *kbc = testvm_add(other, &i8042_type, &(struct i8042_config){0});

    key(f, 0x1e);
    key(f, 0x30);
    testvm_transfer(f->kbc, kbc);
    assert_int_equal(testvm_inb(other, DATA), 0x1e);
    testvm_advance(other, NS_PER_MS);
    assert_int_equal(testvm_inb(other, DATA), 0x30);
    testvm_free(other);
}

TEST_F(impossible_state_is_refused)
{
    assert_false(testvm_load_with(f->kbc, "count", 0, 33));
    assert_false(testvm_load_with(f->kbc, "id", 0, 1));
    assert_false(testvm_load_with(f->kbc, "set", 0, 3));
    assert_true(testvm_load_with(f->kbc, "next_at", 0, 1ull << 62));
}
