/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cpu_state.h"
#include "tests/lib/bootmem.h"
#include "tests/lib/unit.h"

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
static struct fixture *setup(void)
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
    return f;
}

static void teardown(struct fixture *f)
{
    bootmem_fini(&f->b);
    free(f);
}

static int load(struct fixture *f)
{
    return bootmem_load(&f->b, BOOT_BZIMAGE);
}

static const uint8_t *params(const struct fixture *f)
{
    return f->b.ram + BOOT_PARAMS;
}

TEST_F(it_is_sniffed)
{
    assert_int_equal(boot_sniff(f->image, sizeof(f->image)), BOOT_BZIMAGE);
    assert_int_equal(boot_sniff(f->image, 0x267), BOOT_UNKNOWN);
}

TEST_F(kernel_stands_at_its_preferred_address)
{
    assert_int_equal(load(f), 0);
    assert_memory_equal(f->b.ram + PREF, f->image + SETUP_SIZE, PROTECTED_SIZE);
    assert_int_equal(f->b.entry.mode, BOOT_MODE_LONG);
    assert_int_equal(f->b.entry.rip, PREF + 0x200);
    assert_int_equal(f->b.entry.rsi, BOOT_PARAMS);
}

/* It would move itself up to the preferred address, over the end of RAM. */
TEST_F(kernel_is_not_loaded_below_its_preferred_address)
{
    put_le64(f->image + 0x258, 0x10000000);
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "258 MiB"));
}

TEST_F(header_is_copied_and_loader_fields_are_set)
{
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

TEST_F(memory_map_is_in_the_zero_page)
{
    assert_int_equal(load(f), 0);
    assert_int_equal(params(f)[0x1e8], f->b.in.map.count);
    assert_int_equal(get_le64(params(f) + 0x2d0 + 3 * 20), 0x100000);
    assert_int_equal(get_le32(params(f) + 0x2d0 + 3 * 20 + 16), E820_RAM);
}

TEST_F(initrd_stands_at_the_top_of_ram_below_the_tables)
{
    uint32_t at;

    f->b.in.module[0] = (struct boot_file){.data = f->initrd, .size = sizeof(f->initrd), .name = "initrd", .args = NULL};
    f->b.in.nmodules = 1;
    assert_int_equal(load(f), 0);
    at = get_le32(params(f) + 0x218);
    assert_int_equal(at, BOOTMEM_SIZE - 0x10000 - 0x2000);
    assert_int_equal(get_le32(params(f) + 0x21c), sizeof(f->initrd));
    assert_memory_equal(f->b.ram + at, f->initrd, sizeof(f->initrd));
}

TEST_F(initrd_obeys_initrd_addr_max)
{
    put_le32(f->image + 0x22c, 0x1ffffff);
    f->b.in.module[0] = (struct boot_file){.data = f->initrd, .size = sizeof(f->initrd), .name = "initrd", .args = NULL};
    f->b.in.nmodules = 1;
    assert_int_equal(load(f), 0);
    assert_int_equal(get_le32(params(f) + 0x218), 0x2000000 - 0x2000);
}

TEST_F(initrd_that_does_not_fit_is_refused)
{
    put_le32(f->image + 0x22c, 0x1100fff);
    f->b.in.module[0] = (struct boot_file){.data = f->initrd, .size = sizeof(f->initrd), .name = "initrd", .args = NULL};
    f->b.in.nmodules = 1;
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "--memory"));
}

TEST_F(page_tables_map_four_gigabytes_one_to_one)
{
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

TEST_F(long_mode_entry_makes_a_consistent_cpu)
{
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

TEST_F(kernel_without_64_bit_entry_starts_in_protected_mode)
{
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

TEST_F(old_kernel_is_loaded_at_one_megabyte)
{
    put_le16(f->image + 0x206, 0x204);
    f->image[0x234] = 0;
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.rip, 0x100000);
    assert_int_equal(get_le64(params(f) + 0x70), 0);
}

TEST_F(kernel_that_needs_a_bios_is_refused)
{
    put_le16(f->image + 0x206, 0x201);
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "needs a BIOS"));
}

TEST_F(kernel_without_a_32_bit_entry_is_refused)
{
    put_le32(f->image + 0x214, 0);
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "needs a BIOS"));
}

TEST_F(sixty_four_bit_kernel_on_32_bit_model_is_refused)
{
    f->b.in.long_mode = false;
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "--cpu"));
}

TEST_F(truncated_payload_is_refused)
{
    f->b.in.kernel.size -= 0x1000;
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "truncated"));
}

TEST_F(setup_past_the_end_is_refused)
{
    f->image[0x1f1] = 255;
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "truncated"));
}

TEST_F(kernel_larger_than_ram_is_refused)
{
    put_le32(f->image + 0x260, 0x7fffffff);
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "--memory"));
}

TEST_F(command_line_longer_than_the_kernel_takes_is_refused)
{
    put_le32(f->image + 0x238, 4);
    f->b.in.cmdline = "quiet";
    assert_true(bootmem_refuses(&f->b, BOOT_BZIMAGE, "--append"));
}

TEST_F(bios_data_area_tells_the_ebda)
{
    assert_int_equal(load(f), 0);
    assert_int_equal(get_le16(f->b.ram + 0x40e), 0x9fc0);
    assert_int_equal(get_le16(f->b.ram + 0x413), 639);
    assert_int_equal(f->b.ram[0x9fc00], 1);
}

static uint32_t vector(const struct fixture *f, unsigned n)
{
    return get_le16(f->b.ram + 4 * n) + 16u * get_le16(f->b.ram + 4 * n + 2);
}

TEST_F(bios_calls_are_answered_with_carry)
{
    static const uint8_t set_carry[] = {0x80, 0x4e, 0x06, 0x01};

    assert_int_equal(load(f), 0);
    assert_memory_equal(f->b.ram + vector(f, 0x15) + 3, set_carry, sizeof(set_carry));
    assert_int_equal(vector(f, 0x15), vector(f, 0x10));
    assert_int_equal(f->b.ram[vector(f, 0x12)], 0xb8);
    assert_int_equal(f->b.ram[vector(f, 0x00)], 0xcf);
    assert_int_equal(f->b.ram[vector(f, 0x70) + 4], 0xa0);
    assert_int_equal(vector(f, 0x41), 0);
    assert_int_equal(vector(f, 0x80), 0);
}

TEST_F(vmlinux_starts_at_its_entry)
{
    struct bootmem_elf elf = {.is64 = true,
                              .entry = PREF + 0x40,
                              .paddr = PREF,
                              .vaddr = 0xffffffff81000000,
                              .memsz = 0x2000,
                              .payload = f->initrd,
                              .payload_size = 256};

    f->b.in.kernel.size = bootmem_elf(f->image, &elf);
    assert_int_equal(boot_sniff(f->image, f->b.in.kernel.size), BOOT_VMLINUX);
    assert_int_equal(bootmem_load(&f->b, BOOT_VMLINUX), 0);
    assert_int_equal(f->b.entry.rip, PREF + 0x40);
    assert_memory_equal(f->b.ram + PREF, f->initrd, 256);
    assert_int_equal(f->b.ram[PREF + 256], 0);
    assert_int_equal(f->b.ram[PREF + 0x1fff], 0);
    assert_int_equal(f->b.ram[PREF + 0x2000], 0xff);
}

TEST(module_list_splits_at_single_commas)
{
    char list[] = "a b,c,,d e,f";
    char *out[4];

    assert_int_equal(boot_split_modules(list, out, 4), 3);
    assert_string_equal(out[0], "a b");
    assert_string_equal(out[1], "c,d e");
    assert_string_equal(out[2], "f");
}

TEST(too_many_modules_are_refused)
{
    char list[] = "a,b,c";
    char *out[2];

    assert_int_equal(boot_split_modules(list, out, 2), -1);
}
