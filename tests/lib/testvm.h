/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine for unit tests and fuzzers: a struct vm with a manual clock, some RAM, no engine, no
 * loop and no vCPU. Everything is deterministic: the wall clock starts at TESTVM_WALL and time
 * moves only by testvm_advance. Failures of the library itself print one line and abort; it needs
 * no cmocka.
 */
#ifndef TESTS_LIB_TESTVM_H
#define TESTS_LIB_TESTVM_H

#include "core/vm.h"

/* 2024-02-28 23:59:50 UTC, a Wednesday: ten seconds before a leap day. */
#define TESTVM_WALL      (1709164790ll * NS_PER_SEC)
#define TESTVM_RAM_BYTES (4u << 20)

#define NS_PER_US 1000ll
#define NS_PER_MS 1000000ll

#define TESTVM_MSIS 64

struct testvm_msi {
    uint64_t addr;
    uint32_t data;
};

struct testvm {
    struct vm vm;
    struct region ram; /* TESTVM_RAM_BYTES of RAM at guest-physical 0 */
    unsigned nmsis;    /* seen so far; the first TESTVM_MSIS are kept */
    struct testvm_msi msis[TESTVM_MSIS];
};

/* Two of them live side by side: tests of per-VM state make two and compare. */
struct testvm *testvm_new(void);
void testvm_free(struct testvm *tv);

/* device_new, device_attach and a cold reset; aborts if the device refuses its configuration. */
struct device *testvm_add(struct testvm *tv, const struct dev_type *type, const void *config);
struct device *testvm_add_named(struct testvm *tv, const struct dev_type *type, const char *name,
                                const void *config);

/* A statement under the machine lock, which chips' functions want. */
#define TESTVM_LOCKED(tv, ...) \
    do {                       \
        vm_lock(&(tv)->vm);    \
        __VA_ARGS__;           \
        vm_unlock(&(tv)->vm);  \
    } while (0)

/* Moves VM time, firing timers in order. */
void testvm_advance(struct testvm *tv, int64_t ns);

/* Accesses of 1, 2, 4 or 8 bytes through the bus, as a vCPU makes them. */
uint64_t testvm_in(struct testvm *tv, uint16_t port, unsigned size);
void testvm_out(struct testvm *tv, uint16_t port, uint64_t value, unsigned size);
uint64_t testvm_read(struct testvm *tv, gpa_t gpa, unsigned size);
void testvm_write(struct testvm *tv, gpa_t gpa, uint64_t value, unsigned size);

static inline uint8_t testvm_inb(struct testvm *tv, uint16_t port)
{
    return (uint8_t)testvm_in(tv, port, 1);
}

static inline void testvm_outb(struct testvm *tv, uint16_t port, uint8_t value)
{
    testvm_out(tv, port, value, 1);
}

/* The pending vm_request, taken off: VM_REQUEST_NONE if there is none. */
enum vm_request testvm_take_request(struct testvm *tv, uint32_t *value);

/* ---- Recording interrupt sink: one line that ends in a pin which only counts ---- */

struct testvm_irq {
    struct irq_line line;
    bool level;
    unsigned rises, falls;
    bool busy; /* set it to make the pin say "coalesced" to rising edges */
};

void testvm_irq_init(struct testvm *tv, struct testvm_irq *sink, unsigned number);
/* A new source of the line, to put into a device's configuration. */
struct irq testvm_irq_source(struct testvm_irq *sink);

/* ---- State ---- */

/* Aborts with the offset of the first byte of the device's state that its table does not list. */
void testvm_audit(struct device *dev);

/*
 * Saves dev, loads that into `fresh` (a device of the same type with the same configuration,
 * usually in another testvm), checks it, saves again, and compares the bytes. Ends with derive on
 * `fresh`.
 */
void testvm_transfer(struct device *dev, struct device *fresh);

/*
 * The audit, and the round trip through dev itself: save, cold reset, load, check, derive, save,
 * compare. Leaves dev in the state it had.
 */
void testvm_state_roundtrip(struct device *dev);

/* Loads bytes that may be anything into dev. On refusal dev is reset. True if they were taken. */
bool testvm_load(struct device *dev, const void *data, size_t len);

/*
 * Loads dev's own state with one number changed: element `index` of all fields of that name, at any
 * depth, in the order of saving. Aborts if there is none. True if it was taken.
 */
bool testvm_load_with(struct device *dev, const char *field, unsigned index, uint64_t value);

#endif
