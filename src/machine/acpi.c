/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layout: DSDT, MADT, MCFG, WAET, FADT, RSDT, XSDT one after the other at 64-byte boundaries; then,
 * on a page of its own, the FACS. The RSDP stands elsewhere, in the BIOS segment, where systems
 * look.
 *
 * Old systems read these as well: the DSDT is of revision 1 (32-bit integers) and keeps to
 * operators of ACPI 1.0; processors are Processor objects; the FADT has both the 32-bit and the X_
 * fields.
 */
#include "machine/acpi.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hw/acpi/ich9_pm.h"
#include "hw/pci/q35_host.h"
#include "machine/aml.h"

#define HEADER     36u
#define ALIGN      64u
#define MAX_TABLES 8

#define MADT_LAPIC            0
#define MADT_IOAPIC           1
#define MADT_OVERRIDE         2
#define MADT_LAPIC_NMI        4
#define MADT_X2APIC           9
#define MADT_X2APIC_NMI       10
#define MADT_PCAT_COMPAT      1 /* there are 8259s too */
#define MPS_ACTIVE_HIGH_LEVEL 0x000d

/* ---- bytes with addresses ---- */

static void le16(struct aml *t, uint16_t v)
{
    uint8_t b[2];

    put_le16(b, v);
    aml_bytes(t, b, sizeof(b));
}

static void le32(struct aml *t, uint32_t v)
{
    uint8_t b[4];

    put_le32(b, v);
    aml_bytes(t, b, sizeof(b));
}

static void le64(struct aml *t, uint64_t v)
{
    uint8_t b[8];

    put_le64(b, v);
    aml_bytes(t, b, sizeof(b));
}

static void pad_to(struct aml *t, size_t align)
{
    while (t->len % align && !t->failed)
        aml_byte(t, 0);
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;

    while (len--)
        sum += *p++;
    return (uint8_t)-sum;
}

/* Starts a table: returns where. Section 5.2.6. */
static size_t table_begin(struct aml *t, const char *signature, uint8_t revision)
{
    uint8_t h[HEADER] = {0};
    size_t at;

    pad_to(t, ALIGN);
    at = t->len;
    memcpy(h, signature, 4);
    h[8] = revision;
    memcpy(h + 10, "DOPPEL", 6);
    memcpy(h + 16, "Q35     ", 8);
    put_le32(h + 24, 1);
    memcpy(h + 28, "DPL ", 4);
    put_le32(h + 32, 1);
    aml_bytes(t, h, sizeof(h));
    return at;
}

static void table_end(struct aml *t, size_t at)
{
    if (t->failed)
        return;
    put_le32(t->data + at + 4, (uint32_t)(t->len - at));
    t->data[at + 9] = 0;
    t->data[at + 9] = checksum(t->data + at, t->len - at);
}

/* ---- DSDT ---- */

static void hid(struct aml *a, const char *id)
{
    aml_name(a, "_HID");
    aml_eisaid(a, id);
}

static void named_int(struct aml *a, const char *name, uint64_t value)
{
    aml_name(a, name);
    aml_int(a, value);
}

/*
 * PCI interrupt link devices, which PIC-mode systems program: PIRQx_ROUT of the LPC bridge (ICH9
 * datasheet 13.1.18), bit 7 off, bits 3:0 the IRQ.
 */
static void link_device(struct aml *a, unsigned n)
{
    char name[] = "LNKA", reg[] = "\\_SB.PCI0.LPC.PRQA";
    struct aml r = {0};
    size_t dev, m, cond;

    name[3] = reg[sizeof(reg) - 2] = (char)('A' + n);
    dev = aml_device(a, name);
    hid(a, "PNP0C0F");
    named_int(a, "_UID", n + 1);

    aml_name(a, "_PRS");
    res_irq(&r, BIT(5) | BIT(10) | BIT(11), true);
    aml_resources(a, &r);

    m = aml_method(a, "_STA", 0);
    cond = aml_if(a);
    aml_byte(a, AML_AND);
    aml_path(a, reg);
    aml_int(a, 0x80);
    aml_byte(a, 0);
    aml_byte(a, AML_RETURN);
    aml_int(a, 0x09);
    aml_end(a, cond);
    aml_byte(a, AML_RETURN);
    aml_int(a, 0x0b);
    aml_end(a, m);

    m = aml_method(a, "_DIS", 0);
    aml_byte(a, AML_OR);
    aml_path(a, reg);
    aml_int(a, 0x80);
    aml_path(a, reg);
    aml_end(a, m);

    aml_name(a, "BUFR");
    res_irq(&r, 0, true);
    aml_resources(a, &r);
    aml_byte(a, AML_CREATE_WORD_FIELD);
    aml_path(a, "BUFR");
    aml_int(a, 1);
    aml_path(a, "IRQC");
    m = aml_method(a, "_CRS", 0);
    aml_byte(a, AML_STORE);
    aml_int(a, 0);
    aml_path(a, "IRQC");
    cond = aml_if(a);
    aml_byte(a, AML_LNOT);
    aml_byte(a, AML_AND);
    aml_path(a, reg);
    aml_int(a, 0x80);
    aml_byte(a, 0);
    aml_byte(a, AML_AND);
    aml_path(a, reg);
    aml_int(a, 0x0f);
    aml_byte(a, AML_LOCAL0);
    aml_byte(a, AML_SHIFT_LEFT);
    aml_int(a, 1);
    aml_byte(a, AML_LOCAL0);
    aml_path(a, "IRQC");
    aml_end(a, cond);
    aml_byte(a, AML_RETURN);
    aml_path(a, "BUFR");
    aml_end(a, m);

    m = aml_method(a, "_SRS", 1);
    aml_byte(a, AML_CREATE_WORD_FIELD);
    aml_byte(a, AML_ARG0);
    aml_int(a, 1);
    aml_path(a, "IRQM");
    aml_byte(a, AML_FIND_SET_RIGHT_BIT);
    aml_path(a, "IRQM");
    aml_byte(a, AML_LOCAL0);
    cond = aml_if(a);
    aml_byte(a, AML_LOCAL0);
    aml_byte(a, AML_DECREMENT);
    aml_byte(a, AML_LOCAL0);
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_LOCAL0);
    aml_path(a, reg);
    aml_end(a, cond);
    aml_end(a, m);
    aml_end(a, dev);
}

/* One of the two routing tables (section 6.2.13): 32 slots of four pins; to links, or to GSIs. */
static void routing(struct aml *a, const char *name, bool links)
{
    size_t all, entry;

    aml_name(a, name);
    all = aml_package(a, 128);
    for (unsigned slot = 0; slot < 32; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            unsigned pirq = q35_host_pirq(slot, pin + 1) & 7;
            char link[] = "\\_SB.LNKA";

            link[8] = (char)('A' + pirq);
            entry = aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            if (links) {
                aml_path(a, link);
                aml_int(a, 0);
            } else {
                aml_int(a, 0);
                aml_int(a, ACPI_PCI_GSI + pirq);
            }
            aml_end(a, entry);
        }
    }
    aml_end(a, all);
}

/*
 * _OSC (PCI Firmware Specification 4.5.1): the system may have native hot plug, PME, AER, the PCI
 * Express capability and LTR; standard hot plug (bit 1) is not there.
 */
#define OSC_GRANTED 0x3d

static void pci_osc(struct aml *a)
{
    size_t m = aml_method(a, "_OSC", 4), cond, other, inner;

    aml_byte(a, AML_CREATE_DWORD_FIELD);
    aml_byte(a, AML_ARG3);
    aml_int(a, 0);
    aml_path(a, "CDW1");
    cond = aml_if(a);
    aml_byte(a, AML_LEQUAL);
    aml_byte(a, AML_ARG0);
    aml_uuid(a, "33DB4D5B-1FF7-401C-9657-7441C03DD766");
    aml_byte(a, AML_CREATE_DWORD_FIELD);
    aml_byte(a, AML_ARG3);
    aml_int(a, 8);
    aml_path(a, "CDW3");
    aml_byte(a, AML_AND);
    aml_path(a, "CDW3");
    aml_int(a, OSC_GRANTED);
    aml_byte(a, AML_LOCAL0);
    inner = aml_if(a); /* unknown revision */
    aml_byte(a, AML_LNOT);
    aml_byte(a, AML_LEQUAL);
    aml_byte(a, AML_ARG1);
    aml_int(a, 1);
    aml_byte(a, AML_OR);
    aml_path(a, "CDW1");
    aml_int(a, 0x08);
    aml_path(a, "CDW1");
    aml_end(a, inner);
    inner = aml_if(a); /* something was masked */
    aml_byte(a, AML_LNOT);
    aml_byte(a, AML_LEQUAL);
    aml_byte(a, AML_LOCAL0);
    aml_path(a, "CDW3");
    aml_byte(a, AML_OR);
    aml_path(a, "CDW1");
    aml_int(a, 0x10);
    aml_path(a, "CDW1");
    aml_end(a, inner);
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_LOCAL0);
    aml_path(a, "CDW3");
    aml_end(a, cond);
    other = aml_else(a); /* unknown UUID */
    aml_byte(a, AML_OR);
    aml_path(a, "CDW1");
    aml_int(a, 0x04);
    aml_path(a, "CDW1");
    aml_end(a, other);
    aml_byte(a, AML_RETURN);
    aml_byte(a, AML_ARG3);
    aml_end(a, m);
}

static void isa_device(struct aml *a, const char *name, const char *id, struct aml *r)
{
    size_t dev = aml_device(a, name);

    hid(a, id);
    aml_name(a, "_CRS");
    aml_resources(a, r);
    aml_end(a, dev);
}

static void isa_devices(struct aml *a, const struct acpi_config *c)
{
    struct aml r = {0};
    size_t dev;

    res_io(&r, 0x00, 0x20);
    res_io(&r, 0x81, 0x0f);
    res_io(&r, 0xc0, 0x20);
    isa_device(a, "DMAC", "PNP0200", &r);

    res_io(&r, 0x20, 2);
    res_io(&r, 0xa0, 2);
    res_io(&r, 0x4d0, 2);
    isa_device(a, "PIC", "PNP0000", &r);

    res_io(&r, 0x40, 4);
    res_irq(&r, BIT(0), false);
    isa_device(a, "TIMR", "PNP0100", &r);

    res_io(&r, 0x61, 1);
    isa_device(a, "SPKR", "PNP0800", &r);

    res_io(&r, 0x70, 2);
    res_irq(&r, BIT(8), false);
    isa_device(a, "RTC", "PNP0B00", &r);

    res_io(&r, 0xf0, 16);
    res_irq(&r, BIT(13), false);
    isa_device(a, "FPU", "PNP0C04", &r);

    res_io(&r, 0x60, 1);
    res_io(&r, 0x64, 1);
    res_irq(&r, BIT(1), false);
    isa_device(a, "KBD", "PNP0303", &r);

    res_irq(&r, BIT(12), false);
    isa_device(a, "MOU", "PNP0F13", &r);

    if (c->has_serial) {
        dev = aml_device(a, "COM1");
        hid(a, "PNP0501");
        named_int(a, "_UID", 1);
        aml_name(a, "_CRS");
        res_io(&r, 0x3f8, 8);
        res_irq(&r, BIT(4), false);
        aml_resources(a, &r);
        aml_end(a, dev);
    }
}

/* What no BAR may be put on. */
static void motherboard(struct aml *a, const struct acpi_config *c)
{
    size_t dev = aml_device(a, "MBRD");
    struct aml r = {0};

    hid(a, "PNP0C02");
    named_int(a, "_UID", 1);
    aml_name(a, "_CRS");
    res_io(&r, 0x80, 1); /* POST */
    res_io(&r, 0x92, 1);
    res_io(&r, ICH9_APM_CNT_PORT, 2);
    res_io(&r, 0x510, 12); /* fw_cfg */
    res_io(&r, c->pm_base, ICH9_PM_SIZE);
    if (c->ecam_size)
        res_memory32(&r, (uint32_t)c->ecam_base, (uint32_t)c->ecam_size, true);
    aml_resources(a, &r);
    aml_end(a, dev);
}

static void pci_root(struct aml *a, const struct acpi_config *c)
{
    size_t dev = aml_device(a, "PCI0"), lpc, field, m, cond;
    struct aml r = {0};

    hid(a, "PNP0A08");
    aml_name(a, "_CID");
    aml_eisaid(a, "PNP0A03");
    named_int(a, "_UID", 0);
    named_int(a, "_BBN", 0);
    named_int(a, "_SEG", 0);

    aml_name(a, "_CRS");
    res_bus_numbers(&r, 0, 255);
    res_io(&r, 0xcf8, 8);
    res_io_window(&r, 0, 0xcf7);
    res_io_window(&r, 0xd00, 0xffff);
    res_memory_window32(&r, 0xa0000, 0xbffff, true); /* a VGA's, if there is one */
    if (c->pci32_first <= c->pci32_last)
        res_memory_window32(&r, c->pci32_first, c->pci32_last, false);
    if (c->ecam_base + c->ecam_size < c->ioapic_base)
        res_memory_window32(&r, (uint32_t)(c->ecam_base + c->ecam_size), c->ioapic_base - 1, false);
    if (c->pci64_first)
        res_memory_window64(&r, c->pci64_first, c->pci64_last);
    aml_resources(a, &r);

    pci_osc(a);
    routing(a, "PRTP", true);
    routing(a, "PRTA", false);
    m = aml_method(a, "_PRT", 0);
    cond = aml_if(a);
    aml_path(a, "\\PICF");
    aml_byte(a, AML_RETURN);
    aml_path(a, "PRTA");
    aml_end(a, cond);
    aml_byte(a, AML_RETURN);
    aml_path(a, "PRTP");
    aml_end(a, m);

    lpc = aml_device(a, "LPC");
    named_int(a, "_ADR", 0x1f0000);
    aml_pci_config_region(a, "PIRQ", 0x60, 0x0c);
    field = aml_field(a, "PIRQ");
    for (unsigned n = 0; n < 8; n++) {
        char reg[] = "PRQA";

        reg[3] = (char)('A' + n);
        if (n == 4)
            aml_field_skip(a, 32); /* 64h to 67h */
        aml_field_unit(a, reg, 8);
    }
    aml_end(a, field);
    isa_devices(a, c);
    aml_end(a, lpc);
    aml_end(a, dev);
}

static void dsdt(struct aml *a, const struct acpi_config *c)
{
    size_t at = table_begin(a, "DSDT", 1), sb, m, pkg;

    named_int(a, "PICF", 0);
    m = aml_method(a, "_PIC", 1);
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_ARG0);
    aml_path(a, "PICF");
    aml_end(a, m);

    aml_name(a, "_S5");
    pkg = aml_package(a, 4);
    aml_int(a, ICH9_SLP_TYP_S5);
    aml_int(a, ICH9_SLP_TYP_S5);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a, pkg);

    sb = aml_scope(a, "\\_SB");
    for (unsigned i = 0; i < c->ncpus; i++) {
        char name[5];

        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        aml_end(a, aml_processor(a, name, (uint8_t)i));
    }
    pci_root(a, c);
    motherboard(a, c);
    aml_end(a, sb);

    sb = aml_scope(a, "\\_SB");
    for (unsigned n = 0; n < 8; n++)
        link_device(a, n);
    aml_end(a, sb);
    table_end(a, at);
}

/* ---- fixed tables ---- */

/* Generic address (5.2.3.2) of a port. */
static void gas(struct aml *t, uint16_t port, unsigned bits, unsigned access)
{
    uint8_t g[12] = {1, (uint8_t)bits, 0, (uint8_t)access};

    put_le64(g + 4, port);
    aml_bytes(t, g, sizeof(g));
}

/* An absent register: all zeroes, its address space too. */
static void no_gas(struct aml *t)
{
    const uint8_t g[12] = {0};

    aml_bytes(t, g, sizeof(g));
}

#define FADT_WBINVD        BIT(0)
#define FADT_PROC_C1       BIT(2)
#define FADT_SLP_BUTTON    BIT(5) /* set: there is none */
#define FADT_RTC_S4        BIT(7)
#define FADT_RESET_REG_SUP BIT(10)
#define BOOT_ARCH_LEGACY   BIT(0)
#define BOOT_ARCH_8042     BIT(1)
#define BOOT_ARCH_NO_VGA   BIT(2)
#define CMOS_CENTURY       0x32

/* Section 5.2.9, revision 5. */
static void fadt(struct aml *t, const struct acpi_config *c, gpa_t facs, gpa_t dsdt_at)
{
    size_t at = table_begin(t, "FACP", 5);
    uint16_t pm = c->pm_base;

    le32(t, (uint32_t)facs);
    le32(t, (uint32_t)dsdt_at);
    aml_byte(t, 0);
    aml_byte(t, 1); /* preferred profile: desktop */
    le16(t, c->sci_irq);
    le32(t, ICH9_APM_CNT_PORT);
    aml_byte(t, ICH9_ACPI_ENABLE);
    aml_byte(t, ICH9_ACPI_DISABLE);
    aml_byte(t, 0);
    aml_byte(t, 0);
    le32(t, pm + ICH9_PM1_STS);
    le32(t, 0);
    le32(t, pm + ICH9_PM1_CNT);
    le32(t, 0);
    le32(t, 0); /* PM2_CNT: bus master arbitration is not needed */
    le32(t, pm + ICH9_PM1_TMR);
    le32(t, pm + ICH9_GPE0_STS);
    le32(t, 0);
    aml_byte(t, 4); /* lengths: PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR, GPE0, GPE1 */
    aml_byte(t, 2);
    aml_byte(t, 0);
    aml_byte(t, 4);
    aml_byte(t, ICH9_GPE0_LEN);
    aml_byte(t, 0);
    aml_byte(t, 0);
    aml_byte(t, 0);
    le16(t, 0xfff); /* C2 and C3 latencies: not supported */
    le16(t, 0xfff);
    le16(t, 0);
    le16(t, 0);
    aml_byte(t, 0);
    aml_byte(t, 0);
    aml_byte(t, 0);
    aml_byte(t, 0);
    aml_byte(t, CMOS_CENTURY);
    le16(t, BOOT_ARCH_LEGACY | BOOT_ARCH_8042 | BOOT_ARCH_NO_VGA);
    aml_byte(t, 0);
    le32(t, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_RTC_S4 | FADT_RESET_REG_SUP);
    gas(t, ICH9_RST_CNT_PORT, 8, 1);
    aml_byte(t, ICH9_RST_CNT_RESET);
    le16(t, 0);
    aml_byte(t, 0);
    le64(t, 0); /* X_FIRMWARE_CTRL is for a FACS above 4 GiB */
    le64(t, dsdt_at);
    gas(t, pm + ICH9_PM1_STS, 32, 2);
    no_gas(t);
    gas(t, pm + ICH9_PM1_CNT, 16, 2);
    no_gas(t);
    no_gas(t);
    gas(t, pm + ICH9_PM1_TMR, 32, 3);
    gas(t, pm + ICH9_GPE0_STS, ICH9_GPE0_LEN * 8, 1);
    no_gas(t);
    no_gas(t); /* sleep control and status: hardware-reduced only */
    no_gas(t);
    table_end(t, at);
}

static void madt_override(struct aml *t, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    aml_byte(t, MADT_OVERRIDE);
    aml_byte(t, 10);
    aml_byte(t, 0);
    aml_byte(t, irq);
    le32(t, gsi);
    le16(t, flags);
}

/* Section 5.2.12. */
static void madt(struct aml *t, const struct acpi_config *c)
{
    size_t at = table_begin(t, "APIC", 3);
    bool x2 = false;

    le32(t, c->lapic_base);
    le32(t, MADT_PCAT_COMPAT);
    for (unsigned i = 0; i < c->ncpus; i++) {
        if (i < 255) {
            aml_byte(t, MADT_LAPIC);
            aml_byte(t, 8);
            aml_byte(t, (uint8_t)i);
            aml_byte(t, (uint8_t)i);
            le32(t, 1);
        } else {
            aml_byte(t, MADT_X2APIC);
            aml_byte(t, 16);
            le16(t, 0);
            le32(t, i);
            le32(t, 1);
            le32(t, i);
            x2 = true;
        }
    }
    aml_byte(t, MADT_IOAPIC);
    aml_byte(t, 12);
    aml_byte(t, c->ioapic_id);
    aml_byte(t, 0);
    le32(t, c->ioapic_base);
    le32(t, 0);
    madt_override(t, 0, 2, 0); /* the timer hangs on pin 2 */
    madt_override(t, c->sci_irq, c->sci_irq, MPS_ACTIVE_HIGH_LEVEL);
    aml_byte(t, MADT_LAPIC_NMI);
    aml_byte(t, 6);
    aml_byte(t, 0xff); /* all processors */
    le16(t, 0);
    aml_byte(t, 1);
    if (x2) {
        aml_byte(t, MADT_X2APIC_NMI);
        aml_byte(t, 12);
        le16(t, 0);
        le32(t, UINT32_MAX);
        aml_byte(t, 1);
        aml_byte(t, 0);
        le16(t, 0);
    }
    table_end(t, at);
}

static void mcfg(struct aml *t, const struct acpi_config *c)
{
    size_t at = table_begin(t, "MCFG", 1);

    le64(t, 0);
    le64(t, c->ecam_base);
    le16(t, 0);
    aml_byte(t, 0);
    aml_byte(t, (uint8_t)((c->ecam_size >> 20) - 1));
    le32(t, 0);
    table_end(t, at);
}

/* Windows ACPI emulated devices table: the PM timer need not be read three times, the RTC acks at
 * once. */
static void waet(struct aml *t)
{
    size_t at = table_begin(t, "WAET", 1);

    le32(t, 3);
    table_end(t, at);
}

/* ---- all of it ---- */

static void root_table(struct aml *t, const char *signature, unsigned width, gpa_t base,
                       const size_t *offsets, unsigned n)
{
    size_t at = table_begin(t, signature, 1);

    for (unsigned i = 0; i < n; i++) {
        if (width == 8)
            le64(t, base + offsets[i]);
        else
            le32(t, (uint32_t)(base + offsets[i]));
    }
    table_end(t, at);
}

/* Section 5.2.10: no checksum. */
static void facs(struct aml *t)
{
    uint8_t f[64] = {'F', 'A', 'C', 'S', 64};

    f[32] = 1; /* version */
    aml_bytes(t, f, sizeof(f));
}

static void rsdp(uint8_t *p, gpa_t rsdt, gpa_t xsdt)
{
    memset(p, 0, HEADER);
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, "DOPPEL", 6);
    p[15] = 2;
    put_le32(p + 16, (uint32_t)rsdt);
    put_le32(p + 20, HEADER);
    put_le64(p + 24, xsdt);
    p[8] = checksum(p, 20);
    p[32] = checksum(p, HEADER);
}

int acpi_build(const struct acpi_config *c, struct acpi_tables *out, struct err *err)
{
    struct aml t = {0};
    size_t offsets[MAX_TABLES], dsdt_at, facs_at, xsdt_at, rsdt_at;
    unsigned n = 0;

    *out = (struct acpi_tables){0};
    dsdt(&t, c);
    dsdt_at = 0;
    pad_to(&t, ALIGN);
    if (c->has_apic) {
        offsets[n++] = t.len;
        madt(&t, c);
        pad_to(&t, ALIGN);
    }
    if (c->ecam_size) {
        offsets[n++] = t.len;
        mcfg(&t, c);
        pad_to(&t, ALIGN);
    }
    offsets[n++] = t.len;
    waet(&t);
    pad_to(&t, ALIGN);

    /* The FACS follows on the next page; FADT, RSDT and XSDT must still fit before it. */
    facs_at = align_up(t.len + 1024, PAGE_SIZE);
    memmove(offsets + 1, offsets, n * sizeof(offsets[0]));
    offsets[0] = t.len;
    n++;
    fadt(&t, c, c->base + facs_at, c->base + dsdt_at);
    pad_to(&t, ALIGN);
    rsdt_at = t.len;
    root_table(&t, "RSDT", 4, c->base, offsets, n);
    pad_to(&t, ALIGN);
    xsdt_at = t.len;
    root_table(&t, "XSDT", 8, c->base, offsets, n);
    while (t.len < facs_at && !t.failed)
        aml_byte(&t, 0);
    facs(&t);
    pad_to(&t, PAGE_SIZE);
    if (t.failed) {
        aml_fini(&t);
        return err_set(err, ENOMEM, "out of memory building the ACPI tables");
    }
    out->data = t.data;
    out->size = t.len;
    out->nvs = PAGE_SIZE;
    rsdp(out->rsdp, c->base + rsdt_at, c->base + xsdt_at);
    out->rsdp_size = HEADER;
    return 0;
}

void acpi_tables_fini(struct acpi_tables *tables)
{
    free(tables->data);
    *tables = (struct acpi_tables){0};
}
