/* SPDX-License-Identifier: Apache-2.0 */
/* With ACPI_DUMP=DIR in the environment the tables are written there, for iasl and acpiexec. */
#include <stdio.h>

#define FIXTURE struct acpi_tables *t
#include "base/bytes.h"
#include "machine/acpi.h"
#include "machine/aml.h"
#include "tests/lib/unit.h"

#define BASE 0x7fff0000u

static const struct acpi_config config = {.ncpus = 3,
                                          .has_apic = true,
                                          .lapic_base = 0xfee00000,
                                          .ioapic_base = 0xfec00000,
                                          .pm_base = 0x600,
                                          .sci_irq = 9,
                                          .ecam_base = 0xb0000000,
                                          .ecam_size = 0x10000000,
                                          .pci32_first = 0x80000000,
                                          .pci32_last = 0xafffffff,
                                          .pci64_first = 0x100000000,
                                          .pci64_last = 0xffffffffff,
                                          .has_serial = true,
                                          .base = BASE,
                                          .rsdp_at = 0xf0000};

static struct acpi_tables *setup(void)
{
    struct acpi_tables *t = malloc(sizeof(*t));

    assert_int_equal(acpi_build(&config, t, NULL), 0);
    return t;
}

static void teardown(struct acpi_tables *t)
{
    acpi_tables_fini(t);
    free(t);
}

static uint8_t sum(const uint8_t *p, size_t len)
{
    uint8_t s = 0;

    while (len--)
        s += *p++;
    return s;
}

/* The table that the n-th XSDT entry names. */
static const uint8_t *table(const struct acpi_tables *t, unsigned n)
{
    uint64_t xsdt = get_le64(t->rsdp + 24);
    uint64_t at = get_le64(t->data + (xsdt - BASE) + 36 + 8 * n);

    return t->data + (at - BASE);
}

static void dump(const uint8_t *p)
{
    const char *dir = getenv("ACPI_DUMP");
    char path[512];
    FILE *f;

    if (!dir)
        return;
    snprintf(path, sizeof(path), "%s/%.4s.dat", dir, (const char *)p);
    f = fopen(path, "wb");
    if (!f)
        return;
    fwrite(p, 1, get_le32(p + 4), f);
    fclose(f);
}

TEST_F(rsdp_has_both_checksums)
{
    assert_memory_equal(t->rsdp, "RSD PTR ", 8);
    assert_int_equal(t->rsdp[15], 2);
    assert_int_equal(sum(t->rsdp, 20), 0);
    assert_int_equal(sum(t->rsdp, 36), 0);
}

TEST_F(every_table_sums_to_zero)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG", "WAET"};
    const uint8_t *dsdt;

    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        const uint8_t *p = table(t, i);

        assert_memory_equal(p, names[i], 4);
        assert_int_equal(sum(p, get_le32(p + 4)), 0);
        dump(p);
    }
    dsdt = t->data + (get_le64(table(t, 0) + 140) - BASE);
    assert_memory_equal(dsdt, "DSDT", 4);
    assert_int_equal(sum(dsdt, get_le32(dsdt + 4)), 0);
    dump(dsdt);
}

TEST_F(rsdt_and_xsdt_name_the_same_tables)
{
    const uint8_t *rsdt = t->data + (get_le32(t->rsdp + 16) - BASE);
    const uint8_t *xsdt = t->data + (get_le64(t->rsdp + 24) - BASE);
    unsigned n = (get_le32(rsdt + 4) - 36) / 4;

    assert_int_equal(n, 4);
    assert_int_equal((get_le32(xsdt + 4) - 36) / 8, n);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(get_le32(rsdt + 36 + 4 * i), get_le64(xsdt + 36 + 8 * i));
}

TEST_F(fadt_fields_stand_at_their_offsets)
{
    const uint8_t *f = table(t, 0);

    assert_int_equal(f[8], 5);
    assert_int_equal(get_le32(f + 4), 268);
    assert_int_equal(get_le16(f + 46), 9);
    assert_int_equal(get_le32(f + 48), 0xb2);
    assert_int_equal(get_le32(f + 56), 0x600);
    assert_int_equal(get_le32(f + 64), 0x604);
    assert_int_equal(get_le32(f + 76), 0x608);
    assert_int_equal(get_le32(f + 80), 0x620);
    assert_int_equal(f[88], 4);
    assert_int_equal(f[108], 0x32);
    assert_int_equal(get_le16(f + 109), 7);
    assert_int_equal(get_le32(f + 112) & (1 << 10), 1 << 10);
    assert_int_equal(f[116], 1);
    assert_int_equal(get_le64(f + 120), 0xcf9);
    assert_int_equal(f[128], 6);
    assert_int_equal(get_le64(f + 152), 0x600);
    assert_int_equal(get_le64(f + 176), 0x604);
    assert_int_equal(get_le64(f + 212), 0x608);
    assert_int_equal(get_le64(f + 224), 0x620);
}

TEST_F(facs_stands_alone_on_the_writable_page)
{
    uint64_t facs = get_le32(table(t, 0) + 36);

    assert_int_equal(t->size % 4096, 0);
    assert_int_equal(t->nvs, 4096);
    assert_int_equal(facs, BASE + t->size - t->nvs);
    assert_memory_equal(t->data + (facs - BASE), "FACS", 4);
}

TEST_F(madt_lists_cpus_ioapic_and_overrides)
{
    const uint8_t *m = table(t, 1), *e = m + 44;

    assert_int_equal(get_le32(m + 36), 0xfee00000);
    for (unsigned i = 0; i < config.ncpus; i++, e += 8) {
        assert_int_equal(e[0], 0);
        assert_int_equal(e[2], i);
        assert_int_equal(e[3], i);
        assert_int_equal(get_le32(e + 4), 1);
    }
    assert_int_equal(e[0], 1);
    assert_int_equal(get_le32(e + 4), 0xfec00000);
    e += 12;
    assert_int_equal(e[3], 0);
    assert_int_equal(get_le32(e + 4), 2);
    e += 10;
    assert_int_equal(e[3], 9);
    assert_int_equal(get_le16(e + 8), 0x0d);
    e += 10;
    assert_int_equal(e[0], 4);
    assert_int_equal(e[5], 1);
    assert_ptr_equal(e + 6, m + get_le32(m + 4));
}

TEST_F(mcfg_covers_all_buses)
{
    const uint8_t *m = table(t, 2);

    assert_int_equal(get_le64(m + 44), 0xb0000000);
    assert_int_equal(m[54], 0);
    assert_int_equal(m[55], 255);
}

TEST_F(size_does_not_depend_on_the_place)
{
    struct acpi_config c = config;
    struct acpi_tables other;

    c.base = 0x1000;
    assert_int_equal(acpi_build(&c, &other, NULL), 0);
    assert_int_equal(other.size, t->size);
    acpi_tables_fini(&other);
}

TEST(largest_machine_fits_before_its_facs)
{
    struct acpi_config c = config;
    struct acpi_tables t;

    c.ncpus = 255;
    assert_int_equal(acpi_build(&c, &t, NULL), 0);
    assert_int_equal(get_le32(table(&t, 0) + 36), BASE + t.size - t.nvs);
    acpi_tables_fini(&t);
}

TEST(facs_is_where_the_fadt_says_at_every_size)
{
    for (unsigned ncpus = 1; ncpus <= 64; ncpus++) {
        struct acpi_config c = config;
        struct acpi_tables t;
        uint64_t facs;

        c.ncpus = ncpus;
        assert_int_equal(acpi_build(&c, &t, NULL), 0);
        facs = get_le32(table(&t, 0) + 36);
        assert_int_equal(facs, BASE + t.size - t.nvs);
        assert_memory_equal(t.data + (facs - BASE), "FACS", 4);
        acpi_tables_fini(&t);
    }
}

TEST(package_lengths_grow_with_the_content)
{
    struct aml a = {0};
    uint8_t filler[5000] = {0};
    size_t mark = aml_scope(&a, "\\");

    aml_end(&a, mark);
    assert_int_equal(a.data[1], 3); /* itself, root, null name */
    a.len = 0;
    mark = aml_scope(&a, "\\");
    aml_bytes(&a, filler, 61);
    aml_end(&a, mark);
    assert_int_equal(a.data[1], 0x41);
    assert_int_equal(a.data[2], 4);
    a.len = 0;
    mark = aml_scope(&a, "\\");
    aml_bytes(&a, filler, sizeof(filler));
    aml_end(&a, mark);
    assert_int_equal(a.data[1], 0x80 | (5005 & 0xf));
    assert_int_equal(a.data[2], (5005 >> 4) & 0xff);
    assert_int_equal(a.data[3], 5005 >> 12);
    aml_fini(&a);
}

TEST(eisa_identifiers_are_compressed)
{
    static const uint8_t pnp0a08[] = {0x0c, 0x41, 0xd0, 0x0a, 0x08};
    struct aml a = {0};

    aml_eisaid(&a, "PNP0A08");
    assert_int_equal(a.len, sizeof(pnp0a08));
    assert_memory_equal(a.data, pnp0a08, sizeof(pnp0a08));
    aml_fini(&a);
}
