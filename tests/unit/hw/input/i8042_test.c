/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/input/i8042.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/lib/testvm.h"

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

static int setup(void **state)
{
    struct fixture *f = test_calloc(1, sizeof(*f));
    struct i8042_config config = {.set_a20 = set_a20, .a20_opaque = f};

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->kbd, 1);
    testvm_irq_init(f->tv, &f->mouse, 12);
    config.irq_kbd = testvm_irq_source(&f->kbd);
    config.irq_mouse = testvm_irq_source(&f->mouse);
    f->kbc = testvm_add(f->tv, &i8042_type, &config);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    testvm_free(f->tv);
    test_free(f);
    return 0;
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

static void key(struct fixture *f, uint8_t scancode)
{
    vm_lock(&f->tv->vm);
    i8042_key(f->kbc, scancode);
    vm_unlock(&f->tv->vm);
}

static void move(struct fixture *f, int dx, int dy, int dz, uint8_t buttons)
{
    vm_lock(&f->tv->vm);
    i8042_mouse(f->kbc, dx, dy, dz, buttons);
    vm_unlock(&f->tv->vm);
}

static void command_byte(struct fixture *f, uint8_t val)
{
    cmd(f, 0x60);
    data(f, val);
}

/* ---- The controller ---- */

static void self_tests_pass(void **state)
{
    struct fixture *f = *state;

    cmd(f, 0xaa);
    assert_int_equal(next(f), 0x55);
    cmd(f, 0xab);
    assert_int_equal(next(f), 0x00);
    cmd(f, 0xa9);
    assert_int_equal(next(f), 0x00);
    cmd(f, 0xa4);
    assert_int_equal(next(f), 0xf1);
    cmd(f, 0xc0);
    assert_int_equal(next(f), 0x80);
    cmd(f, 0xe0);
    assert_int_equal(next(f), 0x00);
}

static void command_byte_and_ram_are_read_back(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    cmd(f, 0x20);
    assert_int_equal(next(f), 0x47);
    cmd(f, 0x7f);
    data(f, 0x99);
    cmd(f, 0x3f);
    assert_int_equal(next(f), 0x99);
}

static void enable_and_disable_commands_show_in_the_command_byte(void **state)
{
    static const struct {
        uint8_t cmd, want;
    } steps[] = {{0xad, 0x10}, {0xa7, 0x30}, {0xae, 0x20}, {0xa8, 0x00}};
    struct fixture *f = *state;

    command_byte(f, 0);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        cmd(f, steps[i].cmd);
        cmd(f, 0x20);
        assert_int_equal(next(f), steps[i].want);
    }
}

static void status_tells_commands_from_data(void **state)
{
    struct fixture *f = *state;

    cmd(f, 0xae);
    assert_int_equal(testvm_inb(f->tv, CMD), 0x1c);
    data(f, 0xf4);
    assert_int_equal(testvm_inb(f->tv, CMD) & 0x08, 0);
}

/* Linux: i8042_check_aux(), and the loop that tells a multiplexer from none. */
static void bytes_loop_back_as_keyboard_and_as_mouse(void **state)
{
    struct fixture *f = *state;

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

static void a20_follows_output_port_and_port_92(void **state)
{
    struct fixture *f = *state;

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

static void output_port_shows_the_buffer(void **state)
{
    struct fixture *f = *state;

    cmd(f, 0xd2);
    data(f, 1);
    cmd(f, 0xd0);
    assert_int_equal(testvm_inb(f->tv, DATA), 1);
    assert_int_equal(next(f), 0xd3); /* as it was when the command came */
}

static void every_way_to_reset_is_a_request(void **state)
{
    struct fixture *f = *state;

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

static void interrupt_falls_between_two_bytes(void **state)
{
    struct fixture *f = *state;

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

static void reply_behind_a_key_raises_a_new_edge(void **state)
{
    struct fixture *f = *state;

    key(f, 0x1e);
    cmd(f, 0x20);
    assert_int_equal(testvm_inb(f->tv, DATA), 0x1e);
    assert_int_equal(f->kbd.rises, 2);
    assert_int_equal(testvm_inb(f->tv, DATA), 0x65);
}

static void disabled_keyboard_holds_its_bytes(void **state)
{
    struct fixture *f = *state;

    cmd(f, 0xad);
    key(f, 0x1e);
    assert_int_equal(next(f), NOTHING);
    cmd(f, 0xae);
    assert_int_equal(next(f), 0x1e);
}

static void interrupts_obey_the_command_byte(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x40);
    key(f, 0x1e);
    assert_false(f->kbd.level);
    command_byte(f, 0x41);
    assert_true(f->kbd.level);
}

static void unknown_commands_do_nothing(void **state)
{
    struct fixture *f = *state;

    cmd(f, 0xb5);
    assert_int_equal(next(f), NOTHING);
}

/* ---- The keyboard ---- */

static void keyboard_resets_and_passes_its_test(void **state)
{
    struct fixture *f = *state;

    data(f, 0xff);
    assert_int_equal(next(f), 0xfa);
    assert_int_equal(next(f), 0xaa);
    assert_int_equal(next(f), NOTHING);
}

static void keyboard_identifies_itself_through_translation(void **state)
{
    struct fixture *f = *state;

    data(f, 0xf2);
    assert_int_equal(next(f), 0xfa);
    assert_int_equal(next(f), 0xab);
    assert_int_equal(next(f), 0x41);
    command_byte(f, 0x00);
    data(f, 0xf2);
    assert_int_equal(next(f), 0xfa);
    assert_int_equal(next(f), 0xab);
    assert_int_equal(next(f), 0x83);
}

static void keyboard_takes_parameters(void **state)
{
    struct fixture *f = *state;

    data(f, 0xed);
    assert_int_equal(next(f), 0xfa);
    data(f, 0x07);
    assert_int_equal(next(f), 0xfa);
    data(f, 0xf3);
    assert_int_equal(next(f), 0xfa);
    data(f, 0x00);
    assert_int_equal(next(f), 0xfa);
    data(f, 0xed); /* no parameter after all, but a command */
    assert_int_equal(next(f), 0xfa);
    data(f, 0xee);
    assert_int_equal(next(f), 0xee);
}

static void keyboard_scan_set_can_be_asked_and_set(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x00);
    data(f, 0xf0);
    assert_int_equal(next(f), 0xfa);
    data(f, 0x00);
    assert_int_equal(next(f), 0xfa);
    assert_int_equal(next(f), 2);
    data(f, 0xf0);
    next(f);
    data(f, 0x01);
    assert_int_equal(next(f), 0xfa);
    key(f, 0xe0);
    key(f, 0xc8);
    assert_int_equal(next(f), 0xe0);
    assert_int_equal(next(f), 0xc8);
    data(f, 0xf0);
    next(f);
    data(f, 0x03);
    assert_int_equal(next(f), 0xfe); /* no set 3 */
}

static void keys_arrive_in_set_2_without_translation(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x00);
    key(f, 0x1e); /* A */
    assert_int_equal(next(f), 0x1c);
    key(f, 0x9e);
    assert_int_equal(next(f), 0xf0);
    assert_int_equal(next(f), 0x1c);
    key(f, 0x41); /* F7 */
    assert_int_equal(next(f), 0x83);
    key(f, 0x54); /* SysRq */
    assert_int_equal(next(f), 0x84);
    key(f, 0xe0);
    key(f, 0xd0); /* down, released */
    assert_int_equal(next(f), 0xe0);
    assert_int_equal(next(f), 0xf0);
    assert_int_equal(next(f), 0x72);
}

static void translation_gives_back_every_set_1_code(void **state)
{
    struct fixture *f = *state;

    for (unsigned code = 1; code <= 0x58; code++) {
        key(f, (uint8_t)code);
        assert_int_equal(next(f), code);
        key(f, (uint8_t)(code | 0x80));
        assert_int_equal(next(f), code | 0x80);
    }
}

static void pause_key_keeps_its_sequence(void **state)
{
    static const uint8_t pause[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_LEN(pause); i++)
        key(f, pause[i]);
    for (unsigned i = 0; i < ARRAY_LEN(pause); i++)
        assert_int_equal(next(f), pause[i]);
}

static void keyboard_that_does_not_scan_loses_keys(void **state)
{
    struct fixture *f = *state;

    data(f, 0xf5);
    assert_int_equal(next(f), 0xfa);
    assert_false(i8042_key(f->kbc, 0x1e));
    data(f, 0xf4);
    assert_int_equal(next(f), 0xfa);
    key(f, 0x1e);
    assert_int_equal(next(f), 0x1e);
}

static void full_keyboard_buffer_says_so(void **state)
{
    struct fixture *f = *state;
    unsigned taken = 0;

    while (i8042_key(f->kbc, 0x1e))
        taken++;
    assert_in_range(taken, 16, 32);
    for (unsigned i = 0; i < taken; i++)
        assert_int_equal(next(f), 0x1e);
    assert_int_equal(next(f), NOTHING);
}

static void keyboard_resends_and_refuses(void **state)
{
    struct fixture *f = *state;

    key(f, 0x1e);
    assert_int_equal(next(f), 0x1e);
    data(f, 0xfe);
    assert_int_equal(next(f), 0x1e);
    data(f, 0x05);
    assert_int_equal(next(f), 0xfe);
    data(f, 0xfa); /* a set 3 command: acknowledged */
    assert_int_equal(next(f), 0xfa);
    data(f, 0xf6);
    assert_int_equal(next(f), 0xfa);
}

/* ---- The mouse ---- */

static void mouse_resets_and_identifies(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    mouse_cmd(f, 0xff);
    assert_int_equal(next(f), 0xfa);
    assert_int_equal(next(f), 0xaa);
    assert_int_equal(next(f), 0x00);
    mouse_cmd(f, 0xf2);
    assert_int_equal(next(f), 0xfa);
    assert_true(testvm_inb(f->tv, CMD) & AUX || !(testvm_inb(f->tv, CMD) & OBF));
    assert_int_equal(next(f), 0x00);
}

static void mouse_streams_packets_once_enabled(void **state)
{
    struct fixture *f = *state;

    command_byte(f, 0x47);
    move(f, 5, 5, 0, 0);
    assert_int_equal(next(f), NOTHING);
    mouse_cmd(f, 0xf6); /* forgets what moved */
    assert_int_equal(next(f), 0xfa);
    mouse_cmd(f, 0xf4);
    assert_int_equal(next(f), 0xfa);
    move(f, 3, -2, 0, 1);
    testvm_advance(f->tv, NS_PER_MS);
    assert_true(f->mouse.level);
    assert_int_equal(next(f), 0x29);
    assert_int_equal(next(f), 3);
    assert_int_equal(next(f), 0xfe);
    assert_int_equal(next(f), NOTHING);
}

static void large_movements_take_several_packets(void **state)
{
    struct fixture *f = *state;

    mouse_cmd(f, 0xf4);
    next(f);
    move(f, 300, -300, 0, 0);
    assert_int_equal(next(f), 0x28);
    assert_int_equal(next(f), 255);
    assert_int_equal(next(f), 1);
    assert_int_equal(next(f), 0x28);
    assert_int_equal(next(f), 45);
    assert_int_equal(next(f), 256 - 45);
    assert_int_equal(next(f), NOTHING);
    move(f, 1 << 30, 0, 0, 0);
    move(f, 1 << 30, 0, 0, 0);
    assert_int_equal(next(f), 0x08);
}

static void knocking_turns_it_into_a_wheel_mouse(void **state)
{
    static const uint8_t knock[] = {0xf3, 200, 0xf3, 100, 0xf3, 80};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_LEN(knock); i++) {
        mouse_cmd(f, knock[i]);
        assert_int_equal(next(f), 0xfa);
    }
    mouse_cmd(f, 0xf2);
    next(f);
    assert_int_equal(next(f), 3);
    mouse_cmd(f, 0xf4);
    next(f);
    move(f, 0, 0, -1, 0);
    assert_int_equal(next(f), 0x08);
    assert_int_equal(next(f), 0);
    assert_int_equal(next(f), 0);
    assert_int_equal(next(f), 0xff);
}

static void wheel_of_a_plain_mouse_says_nothing(void **state)
{
    struct fixture *f = *state;

    mouse_cmd(f, 0xf4);
    next(f);
    move(f, 0, 0, 3, 0);
    assert_int_equal(next(f), NOTHING);
}

static void remote_mode_reports_when_asked(void **state)
{
    struct fixture *f = *state;

    mouse_cmd(f, 0xf0);
    next(f);
    mouse_cmd(f, 0xf4);
    next(f);
    move(f, 7, 0, 0, 4);
    assert_int_equal(next(f), NOTHING);
    mouse_cmd(f, 0xeb);
    assert_int_equal(next(f), 0xfa);
    assert_int_equal(next(f), 0x0c);
    assert_int_equal(next(f), 7);
    assert_int_equal(next(f), 0);
    mouse_cmd(f, 0xea);
    assert_int_equal(next(f), 0xfa);
}

static void scaling_doubles_streamed_movement(void **state)
{
    static const uint8_t in[] = {1, 2, 3, 4, 5, 6}, want[] = {1, 1, 3, 6, 9, 12};
    struct fixture *f = *state;

    mouse_cmd(f, 0xe7);
    next(f);
    mouse_cmd(f, 0xf4);
    next(f);
    for (unsigned i = 0; i < ARRAY_LEN(in); i++) {
        move(f, in[i], -in[i], 0, 0);
        next(f);
        assert_int_equal(next(f), want[i]);
        assert_int_equal(next(f), 256 - want[i]);
    }
    mouse_cmd(f, 0xe6);
    next(f);
    move(f, 6, 0, 0, 0);
    next(f);
    assert_int_equal(next(f), 6);
}

static void mouse_status_shows_its_settings(void **state)
{
    struct fixture *f = *state;

    mouse_cmd(f, 0xe8);
    next(f);
    mouse_cmd(f, 0x03);
    next(f);
    mouse_cmd(f, 0xe7);
    next(f);
    mouse_cmd(f, 0xf4);
    next(f);
    mouse_cmd(f, 0xe9);
    assert_int_equal(next(f), 0xfa);
    assert_int_equal(next(f), 0x30);
    assert_int_equal(next(f), 3);
    assert_int_equal(next(f), 100);
    mouse_cmd(f, 0xf5);
    next(f);
    mouse_cmd(f, 0xe9);
    next(f);
    assert_int_equal(next(f), 0x10);
}

static void wrap_mode_echoes_all_but_its_end(void **state)
{
    struct fixture *f = *state;

    mouse_cmd(f, 0xee);
    assert_int_equal(next(f), 0xfa);
    mouse_cmd(f, 0xf4);
    assert_int_equal(next(f), 0xf4);
    mouse_cmd(f, 0xec);
    assert_int_equal(next(f), 0xfa);
    mouse_cmd(f, 0xfe);
    assert_int_equal(next(f), 0xfa); /* the last byte sent */
    mouse_cmd(f, 0x11);
    assert_int_equal(next(f), 0xfe);
}

/* ---- State ---- */

static void state_survives_with_bytes_on_their_way(void **state)
{
    struct fixture *f = *state;

    mouse_cmd(f, 0xf4);
    key(f, 0x1e);
    key(f, 0x9e);
    move(f, 300, 1, 0, 2);
    cmd(f, 0xd1);
    testvm_state_roundtrip(f->kbc);
    data(f, 0x01);
    assert_false(f->a20);
}

static void state_moves_to_another_vm(void **state)
{
    struct fixture *f = *state;
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

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_false(testvm_load_with(f->kbc, "count", 0, 33));
    assert_false(testvm_load_with(f->kbc, "id", 0, 1));
    assert_false(testvm_load_with(f->kbc, "set", 0, 3));
    assert_true(testvm_load_with(f->kbc, "next_at", 0, 1ull << 62));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(self_tests_pass),
        T(command_byte_and_ram_are_read_back),
        T(enable_and_disable_commands_show_in_the_command_byte),
        T(status_tells_commands_from_data),
        T(bytes_loop_back_as_keyboard_and_as_mouse),
        T(a20_follows_output_port_and_port_92),
        T(output_port_shows_the_buffer),
        T(every_way_to_reset_is_a_request),
        T(interrupt_falls_between_two_bytes),
        T(reply_behind_a_key_raises_a_new_edge),
        T(disabled_keyboard_holds_its_bytes),
        T(interrupts_obey_the_command_byte),
        T(unknown_commands_do_nothing),
        T(keyboard_resets_and_passes_its_test),
        T(keyboard_identifies_itself_through_translation),
        T(keyboard_takes_parameters),
        T(keyboard_scan_set_can_be_asked_and_set),
        T(keys_arrive_in_set_2_without_translation),
        T(translation_gives_back_every_set_1_code),
        T(pause_key_keeps_its_sequence),
        T(keyboard_that_does_not_scan_loses_keys),
        T(full_keyboard_buffer_says_so),
        T(keyboard_resends_and_refuses),
        T(mouse_resets_and_identifies),
        T(mouse_streams_packets_once_enabled),
        T(large_movements_take_several_packets),
        T(knocking_turns_it_into_a_wheel_mouse),
        T(wheel_of_a_plain_mouse_says_nothing),
        T(remote_mode_reports_when_asked),
        T(scaling_doubles_streamed_movement),
        T(mouse_status_shows_its_settings),
        T(wrap_mode_echoes_all_but_its_end),
        T(state_survives_with_bytes_on_their_way),
        T(state_moves_to_another_vm),
        T(impossible_state_is_refused),
    };

    return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
