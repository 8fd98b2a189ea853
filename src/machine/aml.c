/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/aml.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* Opcodes, ACPI 6.4 table 20.4. */
#define OP_ZERO       0x00
#define OP_ONE        0x01
#define OP_NAME       0x08
#define OP_BYTE       0x0a
#define OP_WORD       0x0b
#define OP_DWORD      0x0c
#define OP_STRING     0x0d
#define OP_QWORD      0x0e
#define OP_SCOPE      0x10
#define OP_BUFFER     0x11
#define OP_PACKAGE    0x12
#define OP_METHOD     0x14
#define OP_DUAL_NAME  0x2e
#define OP_MULTI_NAME 0x2f
#define OP_EXT        0x5b
#define OP_IF         0xa0
#define OP_ELSE       0xa1
#define EXT_REGION    0x80
#define EXT_FIELD     0x81
#define EXT_DEVICE    0x82
#define EXT_PROCESSOR 0x83

#define REGION_PCI_CONFIG 2

void aml_fini(struct aml *a)
{
    free(a->data);
    *a = (struct aml){0};
}

void aml_bytes(struct aml *a, const void *data, size_t len)
{
    if (a->failed || len == 0)
        return;
    if (len > a->cap - a->len) {
        size_t cap = (a->len + len) * 2 + 256;
        uint8_t *p = realloc(a->data, cap);

        if (!p) {
            a->failed = true;
            return;
        }
        a->data = p;
        a->cap = cap;
    }
    memcpy(a->data + a->len, data, len);
    a->len += len;
}

void aml_byte(struct aml *a, uint8_t byte)
{
    aml_bytes(a, &byte, 1);
}

/* ---- names and lengths ---- */

static void name_seg(struct aml *a, const char *s, size_t len)
{
    char seg[4] = {'_', '_', '_', '_'};

    memcpy(seg, s, len < 4 ? len : 4);
    aml_bytes(a, seg, 4);
}

void aml_path(struct aml *a, const char *path)
{
    unsigned segs = 1;

    while (*path == '\\' || *path == '^')
        aml_byte(a, (uint8_t)*path++);
    if (*path == '\0') {
        aml_byte(a, 0); /* NullName: the root itself */
        return;
    }
    for (const char *p = path; *p; p++)
        segs += *p == '.';
    if (segs == 2) {
        aml_byte(a, OP_DUAL_NAME);
    } else if (segs > 2) {
        aml_byte(a, OP_MULTI_NAME);
        aml_byte(a, (uint8_t)segs);
    }
    while (*path) {
        size_t len = strcspn(path, ".");

        name_seg(a, path, len);
        path += len;
        if (*path == '.')
            path++;
    }
}

/*
 * The package length counts itself and is known only at the end: aml_end moves the content to make
 * room for its one to four bytes (section 20.2.4).
 */
void aml_end(struct aml *a, size_t mark)
{
    size_t content = a->len - mark, total;
    unsigned bytes = content + 1 < 0x40        ? 1
                     : content + 2 < 0x1000    ? 2
                     : content + 3 < 0x100000u ? 3
                                               : 4;
    uint8_t enc[4] = {0};

    aml_bytes(a, enc, bytes);
    if (a->failed)
        return;
    total = content + bytes;
    if (bytes == 1) {
        enc[0] = (uint8_t)total;
    } else {
        enc[0] = (uint8_t)((bytes - 1) << 6 | (total & 0xf));
        for (unsigned i = 1; i < bytes; i++)
            enc[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
    }
    memmove(a->data + mark + bytes, a->data + mark, content);
    memcpy(a->data + mark, enc, bytes);
}

size_t aml_scope(struct aml *a, const char *path)
{
    size_t mark;

    aml_byte(a, OP_SCOPE);
    mark = a->len;
    aml_path(a, path);
    return mark;
}

static size_t ext_object(struct aml *a, uint8_t op, const char *name)
{
    size_t mark;

    aml_byte(a, OP_EXT);
    aml_byte(a, op);
    mark = a->len;
    aml_path(a, name);
    return mark;
}

size_t aml_device(struct aml *a, const char *name)
{
    return ext_object(a, EXT_DEVICE, name);
}

size_t aml_processor(struct aml *a, const char *name, uint8_t id)
{
    size_t mark = ext_object(a, EXT_PROCESSOR, name);
    uint8_t body[6] = {id};

    aml_bytes(a, body, sizeof(body));
    return mark;
}

size_t aml_method(struct aml *a, const char *name, unsigned args)
{
    size_t mark;

    aml_byte(a, OP_METHOD);
    mark = a->len;
    aml_path(a, name);
    aml_byte(a, (uint8_t)(args & 7) | 8); /* serialized: some create named fields */
    return mark;
}

size_t aml_if(struct aml *a)
{
    aml_byte(a, OP_IF);
    return a->len;
}

size_t aml_else(struct aml *a)
{
    aml_byte(a, OP_ELSE);
    return a->len;
}

size_t aml_package(struct aml *a, uint8_t elements)
{
    size_t mark;

    aml_byte(a, OP_PACKAGE);
    mark = a->len;
    aml_byte(a, elements);
    return mark;
}

/* ---- data ---- */

void aml_name(struct aml *a, const char *name)
{
    aml_byte(a, OP_NAME);
    aml_path(a, name);
}

void aml_int(struct aml *a, uint64_t value)
{
    uint8_t buf[8];

    put_le64(buf, value);
    if (value <= 1) {
        aml_byte(a, value ? OP_ONE : OP_ZERO);
    } else if (value <= 0xff) {
        aml_byte(a, OP_BYTE);
        aml_bytes(a, buf, 1);
    } else if (value <= 0xffff) {
        aml_byte(a, OP_WORD);
        aml_bytes(a, buf, 2);
    } else if (value <= 0xffffffff) {
        aml_byte(a, OP_DWORD);
        aml_bytes(a, buf, 4);
    } else {
        aml_byte(a, OP_QWORD);
        aml_bytes(a, buf, 8);
    }
}

void aml_string(struct aml *a, const char *s)
{
    aml_byte(a, OP_STRING);
    aml_bytes(a, s, strlen(s) + 1);
}

void aml_buffer(struct aml *a, const void *data, size_t len)
{
    size_t mark;

    aml_byte(a, OP_BUFFER);
    mark = a->len;
    aml_int(a, len);
    aml_bytes(a, data, len);
    aml_end(a, mark);
}

static unsigned hex(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a') + 10;
}

/* Three letters of five bits and four hexadecimal digits, the whole big-endian (section 19.3.4). */
void aml_eisaid(struct aml *a, const char *id)
{
    uint32_t v = (uint32_t)(id[0] & 0x1f) << 26 | (uint32_t)(id[1] & 0x1f) << 21 |
                 (uint32_t)(id[2] & 0x1f) << 16 | hex(id[3]) << 12 | hex(id[4]) << 8 |
                 hex(id[5]) << 4 | hex(id[6]);
    uint8_t buf[4];

    put_le32(buf, __builtin_bswap32(v));
    aml_byte(a, OP_DWORD);
    aml_bytes(a, buf, 4);
}

/* Section 19.6.142: the first three groups are little-endian. */
void aml_uuid(struct aml *a, const char *uuid)
{
    static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    uint8_t buf[16];

    for (unsigned i = 0; i < 16; i++) {
        if (*uuid == '-')
            uuid++;
        buf[order[i]] = (uint8_t)(hex(uuid[0]) << 4 | hex(uuid[1]));
        uuid += 2;
    }
    aml_buffer(a, buf, sizeof(buf));
}

/* ---- operation regions ---- */

void aml_pci_config_region(struct aml *a, const char *name, uint8_t offset, uint8_t length)
{
    aml_byte(a, OP_EXT);
    aml_byte(a, EXT_REGION);
    aml_path(a, name);
    aml_byte(a, REGION_PCI_CONFIG);
    aml_int(a, offset);
    aml_int(a, length);
}

size_t aml_field(struct aml *a, const char *region)
{
    size_t mark = ext_object(a, EXT_FIELD, region);

    aml_byte(a, 1); /* ByteAcc, NoLock, Preserve */
    return mark;
}

void aml_field_unit(struct aml *a, const char *name, uint8_t bits)
{
    aml_path(a, name);
    aml_byte(a, bits & 0x3f); /* a package length of one byte */
}

void aml_field_skip(struct aml *a, uint8_t bits)
{
    aml_byte(a, 0);
    aml_byte(a, bits & 0x3f);
}

/* ---- resource descriptors ---- */

#define RES_IRQ            0x23 /* small, with its flags byte */
#define RES_IO             0x47
#define RES_END            0x79
#define RES_MEMORY32_FIXED 0x86
#define RES_DWORD          0x87
#define RES_WORD           0x88
#define RES_QWORD          0x8a
#define RES_TYPE_MEMORY    0
#define RES_TYPE_IO        1
#define RES_TYPE_BUS       2
#define RES_FIXED          0x0c /* producer, positive decode, minimum and maximum fixed */
#define RES_IO_ENTIRE      0x03 /* ISA and non-ISA ranges */
#define RES_MEM_RW         0x01
#define RES_MEM_CACHEABLE  0x02

void res_io(struct aml *r, uint16_t base, uint8_t length)
{
    uint8_t d[8] = {RES_IO, 1 /* decodes 16 bits */};

    put_le16(d + 2, base);
    put_le16(d + 4, base);
    d[6] = 1;
    d[7] = length;
    aml_bytes(r, d, sizeof(d));
}

void res_irq(struct aml *r, uint16_t mask, bool level_low_shared)
{
    uint8_t d[4] = {RES_IRQ};

    put_le16(d + 1, mask);
    d[3] = level_low_shared ? 0x18 : 0x01;
    aml_bytes(r, d, sizeof(d));
}

void res_memory32(struct aml *r, uint32_t base, uint32_t length, bool writable)
{
    uint8_t d[12] = {RES_MEMORY32_FIXED, 9, 0, writable};

    put_le32(d + 4, base);
    put_le32(d + 8, length);
    aml_bytes(r, d, sizeof(d));
}

/* An address space descriptor with fields of `width` bytes (sections 6.4.3.5.1 to 6.4.3.5.3). */
static void window(struct aml *r, uint8_t tag, unsigned width, uint8_t type, uint8_t specific,
                   uint64_t first, uint64_t last)
{
    uint8_t d[6 + 5 * 8] = {tag};
    const uint64_t field[5] = {0, first, last, 0, last - first + 1};

    put_le16(d + 1, (uint16_t)(3 + 5 * width));
    d[3] = type;
    d[4] = RES_FIXED;
    d[5] = specific;
    for (unsigned i = 0; i < 5; i++)
        put_le(d + 6 + i * width, field[i], width);
    aml_bytes(r, d, 6 + 5 * width);
}

void res_bus_numbers(struct aml *r, uint16_t first, uint16_t last)
{
    window(r, RES_WORD, 2, RES_TYPE_BUS, 0, first, last);
}

void res_io_window(struct aml *r, uint16_t first, uint16_t last)
{
    window(r, RES_WORD, 2, RES_TYPE_IO, RES_IO_ENTIRE, first, last);
}

void res_memory_window32(struct aml *r, uint32_t first, uint32_t last, bool cacheable)
{
    window(r, RES_DWORD, 4, RES_TYPE_MEMORY, RES_MEM_RW | (cacheable ? RES_MEM_CACHEABLE : 0),
           first, last);
}

void res_memory_window64(struct aml *r, uint64_t first, uint64_t last)
{
    window(r, RES_QWORD, 8, RES_TYPE_MEMORY, RES_MEM_RW | RES_MEM_CACHEABLE, first, last);
}

void res_end(struct aml *r)
{
    const uint8_t end[2] = {RES_END, 0}; /* checksum 0: treated as correct */

    aml_bytes(r, end, sizeof(end));
}

void aml_resources(struct aml *a, struct aml *r)
{
    res_end(r);
    a->failed |= r->failed;
    aml_buffer(a, r->data, r->len);
    aml_fini(r);
}
