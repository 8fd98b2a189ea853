/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cpu_state.h"
#include "tests/lib/bootmem.h"
#include "tests/lib/unit.h"

#define BASE 0x1000000

struct fixture {
    struct bootmem b;
    struct bootmem_elf elf;
    uint8_t image[4096], payload[512], note[40], module[3000];
};

/* A 64-bit kernel whose notes hold another vendor's first. */
static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    bootmem_init(&f->b);
    memset(f->payload, 0x90, sizeof(f->payload));
    memset(f->module, 0x17, sizeof(f->module));
    put_le32(f->note, 4);
    put_le32(f->note + 4, 0);
    put_le32(f->note + 8, 18);
    memcpy(f->note + 12, "GNU", 4);
    put_le32(f->note + 16, 4);
    put_le32(f->note + 20, 8);
    put_le32(f->note + 24, 18);
    memcpy(f->note + 28, "Xen", 4);
    put_le64(f->note + 32, BASE + 0x20);
    f->elf = (struct bootmem_elf){.is64 = true,
                                  .entry = BASE,
                                  .paddr = BASE,
                                  .vaddr = 0xffffffff81000000,
                                  .memsz = 0x2100,
                                  .payload = f->payload,
                                  .payload_size = sizeof(f->payload),
                                  .note = f->note,
                                  .note_size = sizeof(f->note)};
    f->b.in.kernel.data = f->image;
    f->b.in.kernel.size = bootmem_elf(f->image, &f->elf);
    return f;
}

static void teardown(struct fixture *f)
{
    bootmem_fini(&f->b);
    free(f);
}

static int load(struct fixture *f)
{
    return bootmem_load(&f->b, BOOT_PVH);
}

TEST_F(note_makes_it_pvh)
{
    assert_int_equal(boot_sniff(f->image, f->b.in.kernel.size), BOOT_PVH);
    f->image[0x100 + sizeof(f->payload) + 28] = 'Y';
    assert_int_equal(boot_sniff(f->image, f->b.in.kernel.size), BOOT_VMLINUX);
}

TEST_F(kernel_starts_at_the_note_in_protected_mode)
{
    struct cpu_state cs;

    assert_int_equal(load(f), 0);
    memset(&cs, 0, sizeof(cs));
    boot_entry_apply(&f->b.entry, &cs);
    assert_int_equal(cs.rip, BASE + 0x20);
    assert_int_equal(cs.cr0, CR0_PE | CR0_ET);
    assert_int_equal(cs.cr4, 0);
    assert_int_equal(cs.seg[SEG_CS].attr, 0xc09b);
    assert_int_equal(cs.seg[SEG_ES].attr, 0xc093);
    assert_int_equal(cs.tr.attr, 0x8b);
    assert_int_equal(cs.tr.limit, 0x67);
    assert_int_equal(f->b.ram[BASE], 0x90);
    assert_int_equal(f->b.ram[BASE + 0x20ff], 0);
    assert_int_equal(f->b.ram[BASE + 0x2100], 0xff);
}

TEST_F(thirty_two_bit_elf_is_taken_as_well)
{
    f->elf.is64 = false;
    f->elf.vaddr = 0xc1000000;
    f->b.in.kernel.size = bootmem_elf(f->image, &f->elf);
    assert_int_equal(boot_sniff(f->image, f->b.in.kernel.size), BOOT_PVH);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.rip, BASE + 0x20);
}

TEST_F(start_info_follows_the_kernel)
{
    const uint8_t *info;

    f->b.in.cmdline = "root=/dev/sda";
    assert_int_equal(load(f), 0);
    assert_int_equal(f->b.entry.rbx, BASE + 0x3000);
    info = f->b.ram + f->b.entry.rbx;
    assert_int_equal(get_le32(info), 0x336ec578);
    assert_int_equal(get_le32(info + 4), 1);
    assert_int_equal(get_le32(info + 12), 0);
    assert_int_equal(get_le64(info + 16), 0);
    assert_string_equal((const char *)f->b.ram + get_le64(info + 24), "root=/dev/sda");
    assert_int_equal(get_le64(info + 32), BOOTMEM_RSDP);
    assert_int_equal(get_le32(info + 48), f->b.in.map.count);
    assert_int_equal(get_le64(f->b.ram + get_le64(info + 40) + 3 * 24), 0x100000);
    assert_int_equal(get_le32(f->b.ram + get_le64(info + 40) + 3 * 24 + 16), E820_RAM);
}

TEST_F(modules_are_listed_with_address_and_size)
{
    const uint8_t *info, *mod;

    f->b.in.module[0] = (struct boot_file){.data = f->module, .size = sizeof(f->module), .name = "initrd", .args = NULL};
    f->b.in.nmodules = 1;
    assert_int_equal(load(f), 0);
    info = f->b.ram + f->b.entry.rbx;
    assert_int_equal(get_le32(info + 12), 1);
    mod = f->b.ram + get_le64(info + 16);
    assert_int_equal(get_le64(mod), BASE + 0x3000);
    assert_int_equal(get_le64(mod + 8), sizeof(f->module));
    assert_memory_equal(f->b.ram + get_le64(mod), f->module, sizeof(f->module));
}

TEST_F(segment_outside_ram_is_refused)
{
    f->elf.memsz = BOOTMEM_SIZE;
    bootmem_elf(f->image, &f->elf);
    assert_true(bootmem_refuses(&f->b, BOOT_PVH, "--memory"));
}

TEST_F(segment_over_the_bios_area_is_refused)
{
    f->elf.paddr = 0x9f000;
    bootmem_elf(f->image, &f->elf);
    assert_true(load(f) < 0);
}

TEST_F(wrapping_segment_is_refused)
{
    f->elf.memsz = UINT64_MAX - 0x100;
    bootmem_elf(f->image, &f->elf);
    assert_true(load(f) < 0);
}

TEST_F(file_size_larger_than_memory_size_is_refused)
{
    f->elf.memsz = 1;
    bootmem_elf(f->image, &f->elf);
    assert_true(bootmem_refuses(&f->b, BOOT_PVH, "damaged"));
}

TEST_F(entry_outside_the_kernel_is_refused)
{
    put_le64(f->note + 32, 0x5000000);
    bootmem_elf(f->image, &f->elf);
    assert_true(bootmem_refuses(&f->b, BOOT_PVH, "damaged"));
}

TEST_F(note_that_ends_past_its_segment_is_not_found)
{
    put_le32(f->note + 20, 0xfffffff8);
    f->b.in.kernel.size = bootmem_elf(f->image, &f->elf);
    assert_false(pvh_probe(f->image, f->b.in.kernel.size));
}
