/* SPDX-License-Identifier: Apache-2.0 */
/* ELF as the loaders need it: program headers of either class (System V ABI, chapter 5). */
#include <elf.h>
#include <errno.h>

#include "base/bytes.h"
#include "machine/boot/loader.h"

#define MAX_SEGMENTS 64 /* kernels have fewer than ten */

bool elf_open(struct elf_image *elf, const uint8_t *data, size_t size)
{
    *elf = (struct elf_image){.data = data, .size = size};
    if (size < sizeof(Elf32_Ehdr) || memcmp(data, ELFMAG, SELFMAG) || data[EI_DATA] != ELFDATA2LSB)
        return false;
    if (data[EI_CLASS] == ELFCLASS64) {
        Elf64_Ehdr h;

        if (size < sizeof(h))
            return false;
        memcpy(&h, data, sizeof(h));
        elf->is64 = true;
        elf->machine = h.e_machine;
        elf->entry = h.e_entry;
        elf->phoff = h.e_phoff;
        elf->phnum = h.e_phnum;
        elf->phentsize = h.e_phentsize;
    } else if (data[EI_CLASS] == ELFCLASS32) {
        Elf32_Ehdr h;

        memcpy(&h, data, sizeof(h));
        elf->machine = h.e_machine;
        elf->entry = h.e_entry;
        elf->phoff = h.e_phoff;
        elf->phnum = h.e_phnum;
        elf->phentsize = h.e_phentsize;
    } else {
        return false;
    }
    if (elf->machine != EM_386 && elf->machine != EM_X86_64)
        return false;
    if (elf->phnum == 0 || elf->phnum > MAX_SEGMENTS ||
        elf->phentsize < (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
        return false;
    return range_ok(elf->phoff, (uint64_t)elf->phnum * elf->phentsize, size);
}

bool elf_segment(const struct elf_image *elf, unsigned n, struct elf_segment *seg)
{
    const uint8_t *p;

    if (n >= elf->phnum)
        return false;
    p = elf->data + elf->phoff + (uint64_t)n * elf->phentsize;
    if (elf->is64) {
        Elf64_Phdr h;

        memcpy(&h, p, sizeof(h));
        *seg = (struct elf_segment){.type = h.p_type,
                                    .offset = h.p_offset,
                                    .filesz = h.p_filesz,
                                    .memsz = h.p_memsz,
                                    .paddr = h.p_paddr,
                                    .vaddr = h.p_vaddr};
    } else {
        Elf32_Phdr h;

        memcpy(&h, p, sizeof(h));
        *seg = (struct elf_segment){.type = h.p_type,
                                    .offset = h.p_offset,
                                    .filesz = h.p_filesz,
                                    .memsz = h.p_memsz,
                                    .paddr = h.p_paddr,
                                    .vaddr = h.p_vaddr};
    }
    if (seg->type != PT_LOAD && seg->type != PT_NOTE)
        return true;
    if (!range_ok(seg->offset, seg->filesz, elf->size))
        return false;
    return seg->type != PT_LOAD || seg->filesz <= seg->memsz;
}

int elf_load(const struct elf_image *elf, const struct boot_input *in,
             const struct boot_memory *mem, gpa_t *first, gpa_t *last, struct err *err)
{
    const char *name = in->kernel.name;
    struct elf_segment seg;

    *first = UINT64_MAX;
    *last = 0;
    for (unsigned i = 0; i < elf->phnum; i++) {
        int r;

        if (!elf_segment(elf, i, &seg))
            return err_set(err, EINVAL,
                           "%s: program header %u points outside the file: it is "
                           "truncated or damaged",
                           name, i);
        if (seg.type != PT_LOAD || seg.memsz == 0)
            continue;
        if (seg.paddr >> 32 || !e820_is_ram(&in->map, seg.paddr, seg.memsz))
            return err_set(err, ENOMEM,
                           "%s wants %llu KiB of memory at %#llx, and the guest has no RAM there: "
                           "give it more with --memory",
                           name, (unsigned long long)(seg.memsz + 1023) / 1024,
                           (unsigned long long)seg.paddr);
        r = boot_write(mem, seg.paddr, elf->data + seg.offset, seg.filesz, name, err);
        if (r == 0)
            r = boot_zero(mem, seg.paddr + seg.filesz, seg.memsz - seg.filesz, name, err);
        if (r)
            return r;
        *first = min_u64(*first, seg.paddr);
        *last = max_u64(*last, seg.paddr + seg.memsz);
    }
    if (*last == 0)
        return err_set(err, EINVAL, "%s has nothing to load: it is not a kernel", name);
    return 0;
}
