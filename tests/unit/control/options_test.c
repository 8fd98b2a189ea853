/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/hostcpu.h"
#include "control/options.h"
#include "tests/lib/unit.h"

struct parsed {
    struct run_options o;
    struct err err;
    int r;
};

#define PARSE(p, ...)                 \
    struct parsed p = {0};            \
    char *p##_argv[] = {__VA_ARGS__}; \
    p.r = options_parse_run(&p.o, (int)ARRAY_LEN(p##_argv), p##_argv, &p.err)

static void refuses(const char *sentence_part, struct parsed *p)
{
    assert_int_equal(p->r, -22);
    assert_non_null(strstr(p->err.text, sentence_part));
    options_fini(&p->o);
}

TEST(defaults_hold)
{
    PARSE(p, "--kernel", "K");

    assert_int_equal(p.r, 0);
    assert_string_equal(p.o.machine.kernel, "K");
    assert_int_equal(p.o.machine.memory, 512 << 20);
    assert_int_equal(p.o.machine.ncpus, 1);
    assert_string_equal(p.o.machine.cpu, "max");
    assert_string_equal(p.o.machine.serial, "stdio");
    assert_int_equal(p.o.machine.clock, CLOCK_REAL);
    assert_int_equal(p.o.sandbox, SANDBOX_ON);
    assert_null(p.o.machine.name);
    options_fini(&p.o);
}

TEST(every_option_has_its_effect)
{
    PARSE(p, "--kernel=K", "--initrd", "I", "--append", "a b", "--memory", "1G", "--cpus", "4",
          "--cpu", "v2", "--serial", "unix:/s", "--debugcon", "file:/d", "--engine", "interp",
          "--clock", "virtual", "--name", "n-1", "--trace", "irq", "--trace-file", "/t",
          "--debug-exit", "0xf4", "--no-reboot", "--no-acpi", "--sandbox", "off", "--net", "none",
          "--display", "none", "--machine", "q35", "--print-hash", "--verbose");

    assert_int_equal(p.r, 0);
    assert_string_equal(p.o.machine.initrd, "I");
    assert_string_equal(p.o.machine.append, "a b");
    assert_int_equal(p.o.machine.memory, 1 << 30);
    assert_int_equal(p.o.machine.ncpus, 4);
    assert_string_equal(p.o.machine.cpu, "v2");
    assert_string_equal(p.o.machine.serial, "unix:/s");
    assert_string_equal(p.o.machine.debugcon, "file:/d");
    assert_int_equal(p.o.machine.clock, CLOCK_VIRTUAL);
    assert_string_equal(p.o.machine.name, "n-1");
    assert_string_equal(p.o.machine.trace, "irq");
    assert_string_equal(p.o.machine.trace_file, "/t");
    assert_true(p.o.machine.debug_exit);
    assert_int_equal(p.o.machine.debug_exit_port, 0xf4);
    assert_true(p.o.machine.no_reboot);
    assert_true(p.o.machine.no_acpi);
    assert_int_equal(p.o.sandbox, SANDBOX_OFF);
    assert_true(p.o.print_hash);
    assert_true(p.o.verbose);
    options_fini(&p.o);
}

TEST(host_features_to_do_without_are_a_list)
{
    PARSE(p, "--bios", "B", "--engine", "bt,without=avx,fsgsbase,warm=3,flags=exact,place=any");
    PARSE(q, "--bios", "B", "--engine", "interp,without=avx512");

    assert_int_equal(p.r, 0);
    assert_int_equal(p.o.machine.host_without, HOST_AVX | HOST_FSGSBASE);
    assert_int_equal(p.o.machine.engine_options.warm, 3);
    assert_true(p.o.machine.engine_options.exact_flags);
    assert_true(p.o.machine.engine_options.anywhere);
    assert_int_equal(q.r, 0);
    assert_int_equal(q.o.machine.host_without, HOST_AVX512);
    options_fini(&p.o);
    options_fini(&q.o);
}

TEST(the_translator_takes_options)
{
    PARSE(p, "--bios", "B", "--engine", "bt,warm=3,times", "--perf-map");

    assert_int_equal(p.r, 0);
    assert_int_equal(p.o.machine.engine_options.warm, 3);
    assert_true(p.o.machine.engine_options.times);
    assert_true(p.o.machine.engine_options.perf_map);
    options_fini(&p.o);
}

TEST(debug_exit_needs_no_port)
{
    PARSE(p, "--bios", "B", "--debug-exit", "--no-reboot");

    assert_int_equal(p.r, 0);
    assert_true(p.o.machine.debug_exit);
    assert_int_equal(p.o.machine.debug_exit_port, 0);
    assert_true(p.o.machine.no_reboot);
    options_fini(&p.o);
}

TEST(disk_fields_are_taken_apart)
{
    PARSE(p, "--kernel", "K", "--disk", "a,,b.img,bus=nvme,ro,snapshot=off,serial=x,,y", "--disk",
          "c");

    assert_int_equal(p.r, 0);
    assert_int_equal(p.o.machine.ndisks, 2);
    assert_string_equal(p.o.machine.disks[0].path, "a,b.img");
    assert_string_equal(p.o.machine.disks[0].bus, "nvme");
    assert_true(p.o.machine.disks[0].ro);
    assert_false(p.o.machine.disks[0].snapshot);
    assert_int_equal(p.o.machine.disks[0].nprops, 1);
    assert_string_equal(p.o.machine.disks[0].props[0].name, "serial");
    assert_string_equal(p.o.machine.disks[0].props[0].value, "x,y");
    assert_string_equal(p.o.machine.disks[1].path, "c");
    assert_null(p.o.machine.disks[1].bus);
    options_fini(&p.o);
}

#define REFUSES(test, part, ...) \
    TEST(test)                   \
    {                            \
        PARSE(p, __VA_ARGS__);   \
                                 \
        refuses(part, &p);       \
    }

REFUSES(slip_in_an_option_is_named, "did you mean --initrd?", "--kernel", "K", "--inird", "I")
REFUSES(unknown_option_points_to_help, "--help", "--zzzzzzzz")
REFUSES(missing_value_is_shown, "--memory SIZE", "--memory")
REFUSES(flag_with_value_is_refused, "takes no value", "--no-reboot=1")
REFUSES(slip_in_a_value_is_named, "did you mean 'pentium3'?", "--cpu", "pentium")
REFUSES(memory_without_number_is_refused, "is not a size", "--memory", "much")
REFUSES(memory_with_odd_unit_is_refused, "K, M, G and T", "--memory", "5X")
REFUSES(memory_overflow_is_refused, "more than any machine", "--memory", "99999999999T")
REFUSES(memory_of_half_a_page_is_refused, "multiple of 4K", "--memory", "1025K")
REFUSES(too_little_memory_is_refused, "at least 1M", "--memory", "64K")
REFUSES(zero_cpus_are_refused, "1 to 64", "--cpus", "0")
REFUSES(too_many_cpus_are_refused, "from 0 to 64", "--cpus", "65")
REFUSES(interpreter_takes_no_options, "takes no options", "--engine", "interp,warm=1")
REFUSES(unknown_word_for_the_translator_is_named, "not 'tmies'", "--engine", "bt,tmies")
REFUSES(unknown_host_feature_is_named, "no feature 'sse2'", "--engine", "bt,without=sse2")
REFUSES(host_feature_needs_its_without, "not 'avx'", "--engine", "bt,avx")
REFUSES(unknown_mistake_for_lockstep, "0 to 6", "--engine", "lockstep,plant=7")
REFUSES(lockstep_translates_at_once, "not 'warm=1'", "--engine", "lockstep,warm=1")
REFUSES(nothing_to_boot_is_said, "nothing to boot", "--memory", "1G")
REFUSES(kernel_and_bios_exclude_each_other, "exclude", "--kernel", "K", "--bios", "B")
REFUSES(initrd_needs_a_kernel, "--initrd", "--bios", "B", "--initrd", "I")
REFUSES(name_with_a_slash_is_refused, "can not be used", "--name", "a/b")
REFUSES(unknown_disk_word_is_named, "did you mean 'snapshot'?", "--disk", "f,snapshto")
REFUSES(unknown_bus_lists_what_there_is, "use one of: nvme", "--disk", "f,bus=floppy")
REFUSES(disk_without_file_is_refused, "needs a file", "--disk", ",ro")
REFUSES(network_is_not_there_yet, "--net none", "--net", "user")
REFUSES(serial_without_path_is_refused, "incomplete", "--serial", "file:")
REFUSES(trace_file_needs_patterns, "--trace", "--kernel", "K", "--trace-file", "F")
REFUSES(two_ports_on_stdio_are_refused, "both", "--bios", "B", "--debugcon", "stdio")
REFUSES(missing_thing_is_said, "cannot be opened", "/nonexistent/thing")
REFUSES(directory_is_said, "is a directory", "/")

TEST(sizes_have_units)
{
    struct err err;
    uint64_t n;

    assert_int_equal(parse_size("3k", 1, &n, &err), 0);
    assert_int_equal(n, 3072);
    assert_int_equal(parse_size("2T", 1, &n, &err), 0);
    assert_int_equal(n, 2ull << 40);
    assert_int_equal(parse_size("7", 1 << 20, &n, &err), 0);
    assert_int_equal(n, 7 << 20);
    assert_int_equal(parse_size("-1", 1, &n, &err), -22);
    assert_int_equal(parse_size("", 1, &n, &err), -22);
    assert_int_equal(parse_size("1MB", 1, &n, &err), -22);
}

TEST(far_words_are_not_suggested)
{
    static const char *const words[] = {"run", "inspect", NULL};

    assert_null(nearest_word("elephant", words));
    assert_string_equal(nearest_word("inspct", words), "inspect");
    assert_string_equal(nearest_word("insp", words), "inspect");
}

TEST(names_are_safe_for_paths)
{
    assert_true(vm_name_ok("a.b_c-1"));
    assert_false(vm_name_ok(""));
    assert_false(vm_name_ok(".."));
    assert_false(vm_name_ok("-x"));
    assert_false(vm_name_ok("a b"));
    assert_false(vm_name_ok("0123456789012345678901234567890123456789012345678"));
}
