/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AML written by hand: ACPI 6.4 chapter 20 (ACPI Machine Language), one function per production
 * that our tables use. Arguments of an operator are emitted after it, in order, so code reads like
 * ASL:
 *
 *     size_t dev = aml_device(a, "COM1");
 *     aml_name(a, "_HID"); aml_eisaid(a, "PNP0501");
 *     aml_end(a, dev);
 */
#ifndef MACHINE_AML_H
#define MACHINE_AML_H

#include "base/types.h"

struct aml {
    uint8_t *data;
    size_t len, cap;
    bool failed; /* out of memory */
};

void aml_fini(struct aml *a);
void aml_bytes(struct aml *a, const void *data, size_t len);
void aml_byte(struct aml *a, uint8_t byte);

/*
 * Objects with a package length: begin returns a mark that aml_end takes. Between them stands the
 * content. Names are four characters; paths as in ASL ("\\_SB.PCI0", "^LPC.PRQA").
 */
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *name);
size_t aml_processor(struct aml *a, const char *name, uint8_t id); /* no processor block */
size_t aml_method(struct aml *a, const char *name, unsigned args);
size_t aml_if(struct aml *a); /* then the predicate, then the body */
size_t aml_else(struct aml *a);
size_t aml_package(struct aml *a, uint8_t elements);
size_t aml_field(struct aml *a, const char *region); /* byte access, no lock, preserve */
void aml_end(struct aml *a, size_t mark);

void aml_name(struct aml *a, const char *name); /* then the object */
void aml_path(struct aml *a, const char *path); /* a reference, or a call: then its arguments */
void aml_int(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *s);
void aml_buffer(struct aml *a, const void *data, size_t len);
void aml_eisaid(struct aml *a, const char *id); /* "PNP0501" */
void aml_uuid(struct aml *a, const char *uuid); /* as the ToUUID macro */
void aml_pci_config_region(struct aml *a, const char *name, uint8_t offset, uint8_t length);
void aml_field_unit(struct aml *a, const char *name, uint8_t bits);
void aml_field_skip(struct aml *a, uint8_t bits);

#define AML_LOCAL0             0x60
#define AML_ARG0               0x68
#define AML_ARG1               0x69
#define AML_ARG3               0x6b
#define AML_STORE              0x70
#define AML_AND                0x7b
#define AML_OR                 0x7d
#define AML_SHIFT_LEFT         0x79
#define AML_DECREMENT          0x76
#define AML_FIND_SET_RIGHT_BIT 0x82
#define AML_CREATE_DWORD_FIELD 0x8a /* source, index, name */
#define AML_CREATE_WORD_FIELD  0x8b
#define AML_LNOT               0x92
#define AML_LEQUAL             0x93
#define AML_RETURN             0xa4

/* ---- resource descriptors (ACPI 6.4 section 6.4), into a buffer of their own ---- */

void res_io(struct aml *r, uint16_t base, uint8_t length);
void res_irq(struct aml *r, uint16_t mask, bool level_low_shared);
void res_memory32(struct aml *r, uint32_t base, uint32_t length, bool writable);
void res_bus_numbers(struct aml *r, uint16_t first, uint16_t last);
void res_io_window(struct aml *r, uint16_t first, uint16_t last);
void res_memory_window32(struct aml *r, uint32_t first, uint32_t last, bool cacheable);
void res_memory_window64(struct aml *r, uint64_t first, uint64_t last);
void res_end(struct aml *r);
/* Emits r, closed by res_end, as a Buffer, and frees it. */
void aml_resources(struct aml *a, struct aml *r);

#endif
