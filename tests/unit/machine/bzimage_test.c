/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/cpu_state.h"
#include "tests/lib/bootmem.h"

#define SETUP_SECTS    3
#define SETUP_SIZE     ((SETUP_SECTS + 1) * 512)
#define PROTECTED_SIZE 0x3000
#define IMAGE_SIZE     (SETUP_SIZE + PROTECTED_SIZE)
#define PREF           0x1000000

struct fixture {
    struct bootmem b;
    uint8_t image[IMAGE_SIZE];
    uint8_t initrd[5000];
};

/* A kernel of protocol 2.15 with a 64-bit entry, as distributions build them. */
static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    uint8_t *k = f->image;

    bootmem_init(&f->b);
    for (size_t i = 0; i < PROTECTED_SIZE; i++)
        k[SETUP_SIZE + i] = (uint8_t)(i * 7);
    k[0x1f1] = SETUP_SECTS;
    put_le16(k + 0x1fe, 0xaa55);
    k[0x201] = 0x6a;
    memcpy(k + 0x202, "HdrS", 4);
    put_le16(k + 0x206, 0x20f);
    k[0x211] = 1;
    put_le32(k + 0x214, 0x100000);
    put_le32(k + 0x22c, 0x7fffffff);
    put_le32(k + 0x230, 0x200000);
    k[0x234] = 1;
    put_le16(k + 0x236, 3);
    put_le32(k + 0x238, 2047);
    put_le32(k + 0x248, 0x400);
    put_le32(k + 0x24c, 0x2000);
    put_le64(k + 0x250, 0xdead);
    put_le64(k + 0x258, PREF);
    put_le32(k + 0x260, 0x100000);
    f->b.in.kernel.data = f->image;
    f->b.in.kernel.size = sizeof(f->image);
    memset(f->initrd, 0x42, sizeof(f->initrd));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    bootmem_fini(&f->b);
    free(f);
    return 0;
}

static int load(struct fixture *f)
{
    return boot_load(BOOT_BZIMAGE, &f->b.in, &f->b.mem, &f->b.entry, &f->b.err);
}

static const uint8_t *params(const struct fixture *f)
{
    return f->b.ram + BOOT_PARAMS;
}

static void it_is_sniffed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(boot_sniff(f->image, sizeof(f->image)), BOOT_BZIMAGE);
    assert_int_equal(boot_sniff(f->image, 0x267), BOOT_UNKNOWN);
}

static void kernel_stands_at_its_preferred_address(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(load(f), 0);
    assert_memory_equal(f->b.ram + PREF, f->image + SETUP_SIZE, PROTECTED_SIZE);
    assert_int_equal(f->b.entry.mode, BOOT_MODE_LONG);
    assert_int_equal(f->b.entry.rip, PREF + 0x200);
    assert_int_equal(f->b.entry.rsi, BOOT_PARAMS);
}

/* It would move itself up to the preferred address, over the end of RAM. */
static void kernel_is_not_loaded_below_its_preferred_address(void **state)
{
    struct fixture *f = *state;

    put_le64(f->image + 0x258, 0x10000000);
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "258 MiB"));
}

static void header_is_copied_and_loader_fields_are_set(void **state)
{
    struct fixture *f = *state;

    f->b.in.cmdline = "console=ttyS0";
    assert_int_equal(load(f), 0);
    assert_int_equal(get_le16(params(f) + 0x206), 0x20f);
    assert_int_equal(params(f)[0x210], 0xff);
    assert_int_equal(get_le64(params(f) + 0x250), 0);
    assert_int_equal(get_le16(params(f) + 0x1fa), 0xffff);
    assert_int_equal(get_le32(params(f) + 0x214), PREF);
    assert_int_equal(get_le64(params(f) + 0x70), BOOTMEM_RSDP);
    assert_int_equal(params(f)[0x1ef], 0);
    assert_string_equal((const char *)f->b.ram + get_le32(params(f) + 0x228), "console=ttyS0");
}

static void memory_map_is_in_the_zero_page(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(load(f), 0);
    assert_int_equal(params(f)[0x1e8], f->b.in.map.count);
    assert_int_equal(get_le64(params(f) + 0x2d0 + 3 * 20), 0x100000);
    assert_int_equal(get_le32(params(f) + 0x2d0 + 3 * 20 + 16), E820_RAM);
}

static void initrd_stands_at_the_top_of_ram_below_the_tables(void **state)
{
    struct fixture *f = *state;
    uint32_t at;

    f->b.in.module[0] = (struct boot_file){f->initrd, sizeof(f->initrd), "initrd", NULL};
    f->b.in.nmodules = 1;
    assert_int_equal(load(f), 0);
    at = get_le32(params(f) + 0x218);
    assert_int_equal(at, BOOTMEM_SIZE - 0x10000 - 0x2000);
    assert_int_equal(get_le32(params(f) + 0x21c), sizeof(f->initrd));
    assert_memory_equal(f->b.ram + at, f->initrd, sizeof(f->initrd));
}

static void initrd_obeys_initrd_addr_max(void **state)
{
    struct fixture *f = *state;

    put_le32(f->image + 0x22c, 0x1ffffff);
    f->b.in.module[0] = (struct boot_file){f->initrd, sizeof(f->initrd), "initrd", NULL};
    f->b.in.nmodules = 1;
    assert_int_equal(load(f), 0);
    assert_int_equal(get_le32(params(f) + 0x218), 0x2000000 - 0x2000);
}

static void initrd_that_does_not_fit_is_refused(void **state)
{
    struct fixture *f = *state;

    put_le32(f->image + 0x22c, 0x1100fff);
    f->b.in.module[0] = (struct boot_file){f->initrd, sizeof(f->initrd), "initrd", NULL};
    f->b.in.nmodules = 1;
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "--memory"));
}

static void page_tables_map_four_gigabytes_one_to_one(void **state)
{
    struct fixture *f = *state;
    const uint8_t *ram = f->b.ram;

    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.cr3, BOOT_PAGE_TABLES);
    assert_int_equal(get_le64(ram + BOOT_PAGE_TABLES), (BOOT_PAGE_TABLES + 0x1000) | 3);
    assert_int_equal(get_le64(ram + BOOT_PAGE_TABLES + 8), 0);
    assert_int_equal(get_le64(ram + BOOT_PAGE_TABLES + 0x1000 + 3 * 8),
                     (BOOT_PAGE_TABLES + 0x5000) | 3);
    assert_int_equal(get_le64(ram + BOOT_PAGE_TABLES + 0x1000 + 4 * 8), 0);
    assert_int_equal(get_le64(ram + BOOT_PAGE_TABLES + 0x5000 + 511 * 8), 0xffe00083);
}

static void long_mode_entry_makes_a_consistent_cpu(void **state)
{
    struct fixture *f = *state;
    struct cpu_state cs;

    assert_int_equal(load(f), 0);
    memset(&cs, 0, sizeof(cs));
    cs.cr0 = CR0_ET | CR0_CD | CR0_NW;
    boot_entry_apply(&f->b.entry, &cs);
    assert_true(cpu_64bit(&cs));
    assert_int_equal(cs.cr0, CR0_PE | CR0_PG | CR0_ET);
    assert_int_equal(cs.cr4, CR4_PAE);
    assert_int_equal(cs.rflags, RFLAGS_ONE);
    assert_int_equal(cs.seg[SEG_CS].selector, 0x10);
    assert_int_equal(cs.seg[SEG_SS].selector, 0x18);
    /* The descriptors say what the hidden parts say. */
    assert_int_equal(get_le64(f->b.ram + cs.gdtr.base + 0x10), 0x00af9b000000ffff);
    assert_int_equal(get_le64(f->b.ram + cs.gdtr.base + 0x18), 0x00cf93000000ffff);
    assert_int_equal(cs.seg[SEG_CS].attr, 0xa09b);
    assert_int_equal(cs.seg[SEG_DS].attr, 0xc093);
}

static void kernel_without_64_bit_entry_starts_in_protected_mode(void **state)
{
    struct fixture *f = *state;
    struct cpu_state cs;

    put_le16(f->image + 0x236, 0);
    f->b.in.long_mode = false;
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.mode, BOOT_MODE_PROTECTED);
    assert_int_equal(f->b.entry.rip, PREF);
    memset(&cs, 0, sizeof(cs));
    boot_entry_apply(&f->b.entry, &cs);
    assert_int_equal(cs.cr0, CR0_PE | CR0_ET);
    assert_int_equal(cs.seg[SEG_CS].attr, 0xc09b);
    assert_int_equal(get_le64(f->b.ram + cs.gdtr.base + 0x10), 0x00cf9b000000ffff);
}

static void old_kernel_is_loaded_at_one_megabyte(void **state)
{
    struct fixture *f = *state;

    put_le16(f->image + 0x206, 0x204);
    f->image[0x234] = 0;
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.rip, 0x100000);
    assert_int_equal(get_le64(params(f) + 0x70), 0);
}

static void kernel_that_needs_a_bios_is_refused(void **state)
{
    struct fixture *f = *state;

    put_le16(f->image + 0x206, 0x201);
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "needs a BIOS"));
}

static void kernel_without_a_32_bit_entry_is_refused(void **state)
{
    struct fixture *f = *state;

    put_le32(f->image + 0x214, 0);
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "needs a BIOS"));
}

static void sixty_four_bit_kernel_on_32_bit_model_is_refused(void **state)
{
    struct fixture *f = *state;

    f->b.in.long_mode = false;
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "--cpu"));
}

static void truncated_payload_is_refused(void **state)
{
    struct fixture *f = *state;

    f->b.in.kernel.size -= 0x1000;
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "truncated"));
}

static void setup_past_the_end_is_refused(void **state)
{
    struct fixture *f = *state;

    f->image[0x1f1] = 255;
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "truncated"));
}

static void kernel_larger_than_ram_is_refused(void **state)
{
    struct fixture *f = *state;

    put_le32(f->image + 0x260, 0x7fffffff);
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "--memory"));
}

static void command_line_longer_than_the_kernel_takes_is_refused(void **state)
{
    struct fixture *f = *state;

    put_le32(f->image + 0x238, 4);
    f->b.in.cmdline = "quiet";
    assert_true(load(f) < 0);
    assert_non_null(strstr(f->b.err.text, "--append"));
}

static void bios_data_area_tells_the_ebda(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(load(f), 0);
    assert_int_equal(get_le16(f->b.ram + 0x40e), 0x9fc0);
    assert_int_equal(get_le16(f->b.ram + 0x413), 639);
    assert_int_equal(f->b.ram[0x9fc00], 1);
}

static uint32_t vector(const struct fixture *f, unsigned n)
{
    return get_le16(f->b.ram + 4 * n) + 16u * get_le16(f->b.ram + 4 * n + 2);
}

static void bios_calls_are_answered_with_carry(void **state)
{
    static const uint8_t set_carry[] = {0x80, 0x4e, 0x06, 0x01};
    struct fixture *f = *state;

    assert_int_equal(load(f), 0);
    assert_memory_equal(f->b.ram + vector(f, 0x15) + 3, set_carry, sizeof(set_carry));
    assert_int_equal(vector(f, 0x15), vector(f, 0x10));
    assert_int_equal(f->b.ram[vector(f, 0x12)], 0xb8);
    assert_int_equal(f->b.ram[vector(f, 0x00)], 0xcf);
    assert_int_equal(f->b.ram[vector(f, 0x70) + 4], 0xa0);
    assert_int_equal(vector(f, 0x41), 0);
    assert_int_equal(vector(f, 0x80), 0);
}

static void vmlinux_starts_at_its_entry(void **state)
{
    struct fixture *f = *state;
    struct bootmem_elf elf = {.is64 = true,
                              .entry = PREF + 0x40,
                              .paddr = PREF,
                              .vaddr = 0xffffffff81000000,
                              .memsz = 0x2000,
                              .payload = f->initrd,
                              .payload_size = 256};

    f->b.in.kernel.size = bootmem_elf(f->image, &elf);
    assert_int_equal(boot_sniff(f->image, f->b.in.kernel.size), BOOT_VMLINUX);
    assert_int_equal(boot_load(BOOT_VMLINUX, &f->b.in, &f->b.mem, &f->b.entry, &f->b.err), 0);
    assert_int_equal(f->b.entry.rip, PREF + 0x40);
    assert_memory_equal(f->b.ram + PREF, f->initrd, 256);
    assert_int_equal(f->b.ram[PREF + 256], 0);
    assert_int_equal(f->b.ram[PREF + 0x1fff], 0);
    assert_int_equal(f->b.ram[PREF + 0x2000], 0xff);
}

static void module_list_splits_at_single_commas(void **state)
{
    char list[] = "a b,c,,d e,f";
    char *out[4];

    (void)state;
    assert_int_equal(boot_split_modules(list, out, 4), 3);
    assert_string_equal(out[0], "a b");
    assert_string_equal(out[1], "c,d e");
    assert_string_equal(out[2], "f");
}

static void too_many_modules_are_refused(void **state)
{
    char list[] = "a,b,c";
    char *out[2];

    (void)state;
    assert_int_equal(boot_split_modules(list, out, 2), -1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(it_is_sniffed),
        T(kernel_stands_at_its_preferred_address),
        T(kernel_is_not_loaded_below_its_preferred_address),
        T(header_is_copied_and_loader_fields_are_set),
        T(memory_map_is_in_the_zero_page),
        T(initrd_stands_at_the_top_of_ram_below_the_tables),
        T(initrd_obeys_initrd_addr_max),
        T(initrd_that_does_not_fit_is_refused),
        T(page_tables_map_four_gigabytes_one_to_one),
        T(long_mode_entry_makes_a_consistent_cpu),
        T(kernel_without_64_bit_entry_starts_in_protected_mode),
        T(old_kernel_is_loaded_at_one_megabyte),
        T(kernel_that_needs_a_bios_is_refused),
        T(kernel_without_a_32_bit_entry_is_refused),
        T(sixty_four_bit_kernel_on_32_bit_model_is_refused),
        T(truncated_payload_is_refused),
        T(setup_past_the_end_is_refused),
        T(kernel_larger_than_ram_is_refused),
        T(command_line_longer_than_the_kernel_takes_is_refused),
        T(bios_data_area_tells_the_ebda),
        T(bios_calls_are_answered_with_carry),
        T(vmlinux_starts_at_its_entry),
        cmocka_unit_test(module_list_splits_at_single_commas),
        cmocka_unit_test(too_many_modules_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
