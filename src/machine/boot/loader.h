/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct boot: what firmware and a boot loader would have done for a kernel. A loader reads an
 * image that is hostile input, places it and what it needs in guest memory, and says how the boot
 * processor starts. It runs again after every reset, from the bytes it was first given.
 *
 *   bzimage.c    Linux/x86 boot protocol (Documentation/x86/boot.rst): bzImage, and vmlinux ELF64
 *   pvh.c        PVH, Xen's x86/HVM direct boot ABI (docs/misc/pvh.pandoc)
 *   multiboot.c  Multiboot Specification 0.6.96
 */
#ifndef MACHINE_BOOT_LOADER_H
#define MACHINE_BOOT_LOADER_H

#include "base/err.h"
#include "base/types.h"

struct cpu_state;

/* ---- the memory map ---- */

/* Types of ACPI 6 section 15, "System Address Map Interfaces". */
enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };

struct e820_entry {
    uint64_t addr, size;
    uint32_t type;
};

#define E820_MAX 16

struct e820 {
    struct e820_entry entry[E820_MAX];
    unsigned count;
};

#define EBDA_BASE 0x9fc00u /* extended BIOS data area, to the end of conventional memory */

struct e820_config {
    uint64_t low_end;   /* end of RAM below 4 GiB */
    uint64_t high_end;  /* end of RAM above 4 GiB; 0: none there */
    uint64_t acpi_base; /* ACPI tables at the top of low RAM; 0: none */
    uint64_t acpi_size;
    uint64_t nvs_size;  /* the last part of them, which the system may write (FACS) */
    uint64_t ecam_base; /* 0: none */
    uint64_t ecam_size;
};

void e820_build(const struct e820_config *config, struct e820 *map);
/* End of the run of RAM that starts at or below `from` and goes on from there; `from` if there is
 * none. */
uint64_t e820_run_end(const struct e820 *map, uint64_t from);
/* True if all of [addr, addr + size) is RAM. */
bool e820_is_ram(const struct e820 *map, uint64_t addr, uint64_t size);

/* ---- loading ---- */

struct boot_file {
    const uint8_t *data;
    size_t size;
    const char *name; /* path, for messages and for names the guest sees */
    const char *args; /* Multiboot modules: the whole string "FILE ARGS" */
    int fd;           /* machine.c's, if `opened`: where data comes from */
    bool opened;
};

#define BOOT_MAX_MODULES 32

enum boot_kind { BOOT_UNKNOWN, BOOT_BZIMAGE, BOOT_PVH, BOOT_MULTIBOOT, BOOT_VMLINUX };

/* Where the loader writes: guest memory, or a test's array. False: not RAM there. */
struct boot_memory {
    bool (*write)(void *opaque, gpa_t gpa, const void *data, size_t size);
    void *opaque;
};

struct boot_input {
    struct boot_file kernel;
    struct boot_file module[BOOT_MAX_MODULES];
    unsigned nmodules;
    const char *cmdline; /* never NULL */
    struct e820 map;
    gpa_t rsdp;     /* 0: no ACPI */
    bool long_mode; /* the CPU model has it */
};

enum boot_mode { BOOT_MODE_PROTECTED, BOOT_MODE_LONG };

/* How the boot processor starts, flat segments and interrupts off being understood. */
struct boot_entry {
    enum boot_mode mode;
    uint64_t rip, rax, rbx, rsi, rsp;
    uint64_t cr3;
    uint64_t gdt_base; /* 0: none, the hidden parts are all there is */
    uint16_t gdt_limit;
    uint16_t code_selector, data_selector;
};

/* From the image alone, once, when it is opened. */
enum boot_kind boot_sniff(const uint8_t *data, size_t size);
const char *boot_kind_name(enum boot_kind kind);

/* All of it: low memory, the kernel as its kind wants it. Returns 0 or -errno and one sentence. */
int boot_load(enum boot_kind kind, const struct boot_input *in, const struct boot_memory *mem,
              struct boot_entry *entry, struct err *err);
/* On top of a CPU that has just been reset. */
void boot_entry_apply(const struct boot_entry *entry, struct cpu_state *cs);

/*
 * Splits "FILE ARGS,FILE2 ARGS" in place (",," is a comma). strings gets the pieces; -1: too many.
 */
int boot_split_modules(char *list, char *strings[], unsigned max);

/* The loaders. */
bool bzimage_probe(const uint8_t *data, size_t size);
int bzimage_load(const struct boot_input *in, const struct boot_memory *mem,
                 struct boot_entry *entry, struct err *err);
bool vmlinux_probe(const uint8_t *data, size_t size);
int vmlinux_load(const struct boot_input *in, const struct boot_memory *mem,
                 struct boot_entry *entry, struct err *err);
bool pvh_probe(const uint8_t *data, size_t size);
int pvh_load(const struct boot_input *in, const struct boot_memory *mem, struct boot_entry *entry,
             struct err *err);
bool multiboot_probe(const uint8_t *data, size_t size);
int multiboot_load(const struct boot_input *in, const struct boot_memory *mem,
                   struct boot_entry *entry, struct err *err);

/* ---- shared by the loaders ---- */

/* Below 1 MiB; nothing else lies between the BIOS data area and EBDA_BASE. */
#define BOOT_GDT         0x1000u
#define BOOT_PAGE_TABLES 0x2000u /* PML4, PDPT, four page directories */
#define BOOT_PARAMS      0x8000u
#define BOOT_STACK       0x20000u
#define BOOT_CMDLINE     0x20000u
#define BOOT_CMDLINE_MAX 0x10000u
#define ONE_MIB          0x100000u

int boot_write(const struct boot_memory *mem, gpa_t gpa, const void *data, size_t size,
               const char *what, struct err *err);
int boot_zero(const struct boot_memory *mem, gpa_t gpa, uint64_t size, const char *what,
              struct err *err);

/*
 * The modules on pages of their own after the kernel, which ends at `last`, above 1 MiB. From *at
 * up to *end is then free.
 */
int boot_place_modules(const struct boot_input *in, const struct boot_memory *mem, gpa_t last,
                       gpa_t module_at[], gpa_t *at, gpa_t *end, struct err *err);
/* The sentence for a file that finds no room there. */
int boot_no_room(const struct boot_file *file, struct err *err);

/* A program header, of either class, checked against the file. */
struct elf_segment {
    uint32_t type;
    uint64_t offset, filesz, memsz;
    gpa_t paddr;
    uint64_t vaddr;
};

struct elf_image {
    const uint8_t *data;
    size_t size;
    bool is64;
    uint16_t machine;
    uint64_t entry;
    uint64_t phoff;
    unsigned phnum, phentsize;
};

/* False: not a little-endian ELF file for x86 with a sane program header table. */
bool elf_open(struct elf_image *elf, const uint8_t *data, size_t size);
/* False: the entry contradicts the file. */
bool elf_segment(const struct elf_image *elf, unsigned n, struct elf_segment *seg);
/*
 * Places every PT_LOAD at its physical address, which must be RAM, the part past the file's bytes
 * zeroed.
 * [*first, *last) is what they cover.
 */
int elf_load(const struct elf_image *elf, const struct boot_input *in,
             const struct boot_memory *mem, gpa_t *first, gpa_t *last, struct err *err);

#endif
