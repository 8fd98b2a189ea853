/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cpu_state.h"
#include "tests/lib/bootmem.h"
#include "tests/lib/unit.h"

#define BASE  0x100000
#define MAGIC 0x1badb002

struct fixture {
    struct bootmem b;
    struct bootmem_elf elf;
    uint8_t image[4096], payload[512], module[2][5000];
};

static void put_header(uint8_t *p, uint32_t flags)
{
    put_le32(p, MAGIC);
    put_le32(p + 4, flags);
    put_le32(p + 8, 0u - MAGIC - flags);
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    bootmem_init(&f->b);
    memset(f->payload, 0x90, sizeof(f->payload));
    memset(f->module[0], 0x17, sizeof(f->module[0]));
    memset(f->module[1], 0x18, sizeof(f->module[1]));
    put_header(f->payload + 16, 3);
    f->elf = (struct bootmem_elf){.entry = BASE + 8,
                                  .paddr = BASE,
                                  .vaddr = BASE,
                                  .memsz = 0x2100,
                                  .payload = f->payload,
                                  .payload_size = sizeof(f->payload)};
    f->b.in.kernel.data = f->image;
    f->b.in.kernel.size = bootmem_elf(f->image, &f->elf);
    return f;
}

static void teardown(struct fixture *f)
{
    bootmem_fini(&f->b);
    free(f);
}

/* The same payload without ELF, found by the addresses in its header. */
static void make_flat(struct fixture *f, uint32_t load_addr, uint32_t load_end, uint32_t bss_end,
                      uint32_t entry)
{
    memset(f->image, 0x90, sizeof(f->image));
    put_header(f->image + 0x40, 1 << 16);
    put_le32(f->image + 0x4c, load_addr + 0x40);
    put_le32(f->image + 0x50, load_addr);
    put_le32(f->image + 0x54, load_end);
    put_le32(f->image + 0x58, bss_end);
    put_le32(f->image + 0x5c, entry);
    f->b.in.kernel.size = sizeof(f->image);
}

static int load(struct fixture *f)
{
    return bootmem_load(&f->b, BOOT_MULTIBOOT);
}

static const uint8_t *info(const struct fixture *f)
{
    return f->b.ram + f->b.entry.rbx;
}

TEST_F(it_is_sniffed_by_header_and_checksum)
{
    assert_int_equal(boot_sniff(f->image, f->b.in.kernel.size), BOOT_MULTIBOOT);
    f->image[0x100 + 16 + 8] ^= 1;
    assert_int_equal(boot_sniff(f->image, f->b.in.kernel.size), BOOT_UNKNOWN);
}

TEST_F(entry_state_is_as_specified)
{
    struct cpu_state cs;

    assert_int_equal(load(f), 0);
    memset(&cs, 0, sizeof(cs));
    boot_entry_apply(&f->b.entry, &cs);
    assert_int_equal(cs.rip, BASE + 8);
    assert_int_equal(cs.gpr[REG_RAX], 0x2badb002);
    assert_int_equal(cs.gpr[REG_RBX], BASE + 0x3000);
    assert_int_equal(cs.cr0, CR0_PE | CR0_ET);
    assert_int_equal(cs.rflags, RFLAGS_ONE);
    assert_int_equal(cs.seg[SEG_CS].limit, UINT32_MAX);
    assert_int_equal(cs.seg[SEG_CS].attr, 0xc09b);
    assert_int_equal(cs.seg[SEG_SS].attr, 0xc093);
}

TEST_F(bss_is_zeroed)
{
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.ram[BASE + 512], 0);
    assert_int_equal(f->b.ram[BASE + 0x20ff], 0);
    assert_int_equal(f->b.ram[BASE + 0x2100], 0xff);
}

TEST_F(memory_is_described_both_ways)
{
    const uint8_t *map;

    assert_int_equal(load(f), 0);
    assert_int_equal(get_le32(info(f)), 0x24d);
    assert_int_equal(get_le32(info(f) + 4), 639);
    assert_int_equal(get_le32(info(f) + 8), (BOOTMEM_SIZE - 0x10000 - 0x100000) / 1024);
    assert_int_equal(get_le32(info(f) + 44), f->b.in.map.count * 24);
    map = f->b.ram + get_le32(info(f) + 48);
    assert_int_equal(get_le32(map), 20);
    assert_int_equal(get_le64(map + 3 * 24 + 4), 0x100000);
    assert_int_equal(get_le32(map + 3 * 24 + 20), E820_RAM);
}

TEST_F(command_line_begins_with_the_name)
{
    f->b.in.cmdline = "root=device:hd0";
    assert_int_equal(load(f), 0);
    assert_string_equal((const char *)f->b.ram + get_le32(info(f) + 16), "kernel root=device:hd0");
    assert_string_equal((const char *)f->b.ram + get_le32(info(f) + 64), "doppel");
}

TEST_F(modules_stand_on_pages_with_their_strings)
{
    const uint8_t *mods;

    f->b.in.module[0] = (struct boot_file){.data = f->module[0], .size = 5000, .name = "ext2fs", .args = "ext2fs --readonly"};
    f->b.in.module[1] = (struct boot_file){.data = f->module[1], .size = 4096, .name = "exec", .args = "exec /hurd/exec"};
    f->b.in.nmodules = 2;
    assert_int_equal(load(f), 0);
    assert_int_equal(get_le32(info(f) + 20), 2);
    mods = f->b.ram + get_le32(info(f) + 24);
    assert_int_equal(get_le32(mods), BASE + 0x3000);
    assert_int_equal(get_le32(mods + 4), BASE + 0x3000 + 5000);
    assert_string_equal((const char *)f->b.ram + get_le32(mods + 8), "ext2fs --readonly");
    assert_int_equal(get_le32(mods + 16), BASE + 0x5000);
    assert_int_equal(get_le32(mods + 20), BASE + 0x6000);
    assert_string_equal((const char *)f->b.ram + get_le32(mods + 24), "exec /hurd/exec");
    assert_memory_equal(f->b.ram + BASE + 0x5000, f->module[1], 4096);
    assert_int_equal(f->b.entry.rbx, BASE + 0x6000);
}

TEST_F(entry_by_virtual_address_is_translated)
{
    f->elf.vaddr = 0xc0100000;
    f->elf.entry = 0xc0100008;
    bootmem_elf(f->image, &f->elf);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.rip, BASE + 8);
}

TEST_F(address_header_loads_without_elf)
{
    make_flat(f, 0x200000, 0, 0x202000, 0x200080);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.rip, 0x200080);
    assert_memory_equal(f->b.ram + 0x200000, f->image, sizeof(f->image));
    assert_int_equal(f->b.ram[0x201fff], 0);
}

TEST_F(kernel_may_live_below_one_megabyte)
{
    make_flat(f, 0x10000, 0, 0, 0x10080);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.rbx, 0x100000);
}

TEST_F(load_end_bounds_what_is_copied)
{
    make_flat(f, 0x200000, 0x200100, 0, 0x200080);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.ram[0x2000ff], 0x90);
    assert_int_equal(f->b.ram[0x200100], 0xff);
}

TEST_F(load_end_past_the_file_is_refused)
{
    make_flat(f, 0x200000, 0x300000, 0, 0x200080);
    assert_true(bootmem_refuses(&f->b, BOOT_MULTIBOOT, "truncated"));
}

TEST_F(header_address_before_the_load_address_is_refused)
{
    make_flat(f, 0x200000, 0, 0, 0x200080);
    put_le32(f->image + 0x4c, 0x1fffff);
    assert_true(load(f) < 0);
}

TEST_F(unknown_requirement_is_refused)
{
    put_header(f->payload + 16, 0x23);
    bootmem_elf(f->image, &f->elf);
    assert_true(bootmem_refuses(&f->b, BOOT_MULTIBOOT, "0x20"));
}

TEST_F(entry_outside_the_image_is_refused)
{
    make_flat(f, 0x200000, 0, 0, 0x300000);
    assert_true(load(f) < 0);
}

TEST_F(modules_that_do_not_fit_are_refused)
{
    make_flat(f, BOOTMEM_SIZE - 0x10000 - 0x1000, 0, 0, BOOTMEM_SIZE - 0x10000 - 0x1000);
    f->b.in.module[0] = (struct boot_file){.data = f->module[0], .size = 5000, .name = "m", .args = "m"};
    f->b.in.nmodules = 1;
    assert_true(bootmem_refuses(&f->b, BOOT_MULTIBOOT, "--memory"));
}
