/* SPDX-License-Identifier: Apache-2.0 */
#include "control/options.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "core/vm.h"
#include "engine/engine.h"

#define NAME_MAX_LEN 48

#define OPT_HIDDEN   1u
#define OPT_OPTIONAL 2u /* the argument may be left out; it starts with a digit */

struct option {
    const char *name;     /* without the dashes */
    const char *arg;      /* NULL: takes none */
    const char *fallback; /* what holds without it, for the help; NULL: nothing */
    const char *help;
    int (*set)(struct run_options *o, const char *value, struct err *err);
    unsigned flags;
};

/* ---- words ---- */

/* Levenshtein distance; words are short. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t la = strlen(a), lb = strlen(b), i, j;

    if (la >= ARRAY_LEN(row) || lb >= ARRAY_LEN(row))
        return UINT_MAX;
    for (j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (i = 1; i <= la; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (j = 1; j <= lb; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            best = best < row[j] + 1 ? best : row[j] + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
        }
    }
    return row[lb];
}

const char *nearest_word(const char *word, const char *const *words)
{
    unsigned best = 1 + (unsigned)strlen(word) / 3;
    const char *found = NULL;

    for (; *words; words++) {
        unsigned d = distance(word, *words);

        /* The beginning of a word is meant as the word. */
        if (strlen(word) >= 2 && !strncmp(word, *words, strlen(word)))
            d = 1;
        if (d <= best && (!found || d < best)) {
            best = d;
            found = *words;
        }
    }
    return found;
}

/* One of a list, or a sentence. Returns its index. */
static int choose(const char *what, const char *value, const char *const *words, struct err *err)
{
    const char *near;
    char list[256] = "";
    int i;

    for (i = 0; words[i]; i++)
        if (!strcmp(value, words[i]))
            return i;
    near = nearest_word(value, words);
    if (near)
        return err_set(err, EINVAL, "%s '%s' is unknown; did you mean '%s'?", what, value, near);
    for (i = 0; words[i]; i++)
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "", words[i]);
    return err_set(err, EINVAL, "%s '%s' is unknown; use one of: %s.", what, value, list);
}

bool vm_name_ok(const char *name)
{
    const char *p;

    if (!*name || *name == '.' || *name == '-' || strlen(name) > NAME_MAX_LEN)
        return false;
    for (p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return false;
    return true;
}

int parse_size(const char *text, uint64_t unit, uint64_t *bytes, struct err *err)
{
    static const char letters[] = "KMGT";
    const char *letter;
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 0);
    if (!isdigit((unsigned char)*text) || errno)
        return err_set(err, EINVAL, "'%s' is not a size; write it like 512M or 2G.", text);
    if (*end) {
        letter = strchr(letters, toupper((unsigned char)*end));
        if (!letter || end[1])
            return err_set(err, EINVAL, "'%s' is not a size; the units are K, M, G and T.", text);
        unit = 1024ull << (10 * (letter - letters));
    }
    if (!mul_ok(n, unit, bytes))
        return err_set(err, EINVAL, "'%s' is more than any machine has.", text);
    return 0;
}

static int parse_number(const char *what, const char *text, unsigned long max, unsigned long *out,
                        struct err *err)
{
    char *end;

    errno = 0;
    *out = strtoul(text, &end, 0);
    if (!isdigit((unsigned char)*text) || *end || errno || *out > max)
        return err_set(err, EINVAL, "%s '%s' is not a number from 0 to %lu.", what, text, max);
    return 0;
}

static char *own(struct run_options *o, char *text)
{
    char **more = text ? realloc(o->owned, (o->nowned + 1) * sizeof(*more)) : NULL;

    if (!more) {
        free(text);
        return NULL;
    }
    o->owned = more;
    return o->owned[o->nowned++] = text;
}

/* Cuts the next field off *text at a comma; two commas stand for one. */
static char *next_field(char **text)
{
    char *field = *text, *to = field, *p = field;

    if (!field)
        return NULL;
    while (*p && !(p[0] == ',' && p[1] != ',')) {
        p += *p == ',';
        *to++ = *p++;
    }
    *text = *p ? p + 1 : NULL;
    *to = 0;
    return field;
}

/* ---- one setter per option ---- */

#define SETTER_STRING(fn, field)                                             \
    static int fn(struct run_options *o, const char *value, struct err *err) \
    {                                                                        \
        (void)err;                                                           \
        o->machine.field = value;                                            \
        return 0;                                                            \
    }
SETTER_STRING(set_kernel, kernel)
SETTER_STRING(set_initrd, initrd)
SETTER_STRING(set_append, append)
SETTER_STRING(set_bios, bios)
SETTER_STRING(set_trace, trace)
SETTER_STRING(set_trace_file, trace_file)

#define SETTER_FLAG(fn, field)                                               \
    static int fn(struct run_options *o, const char *value, struct err *err) \
    {                                                                        \
        (void)value;                                                         \
        (void)err;                                                           \
        o->field = true;                                                     \
        return 0;                                                            \
    }
SETTER_FLAG(set_no_reboot, machine.no_reboot)
SETTER_FLAG(set_no_acpi, machine.no_acpi)
SETTER_FLAG(set_perf_map, machine.engine_options.perf_map)
SETTER_FLAG(set_print_hash, print_hash)
SETTER_FLAG(set_verbose, verbose)
SETTER_FLAG(set_help, help)

/* Where a character stream goes; the back end checks the rest when it opens. */
static int check_stream(const char *what, const char *value, struct err *err)
{
    static const char *const words[] = {"stdio", "null", "file", "unix", NULL};
    size_t len = strcspn(value, ":");
    char head[16];
    int i;

    snprintf(head, sizeof(head), "%.*s", (int)min_u64(len, sizeof(head) - 1), value);
    i = choose(what, head, words, err);
    if (i < 0)
        return i;
    if ((i < 2) != !value[len] || (i >= 2 && !value[len + 1]))
        return err_set(err, EINVAL,
                       "%s '%s' is incomplete; use stdio, null, file:PATH or unix:PATH.", what,
                       value);
    return 0;
}

static int set_serial(struct run_options *o, const char *value, struct err *err)
{
    o->machine.serial = value;
    return check_stream("--serial", value, err);
}

static int set_debugcon(struct run_options *o, const char *value, struct err *err)
{
    o->machine.debugcon = value;
    return check_stream("--debugcon", value, err);
}

static int set_machine(struct run_options *o, const char *value, struct err *err)
{
    static const char *const words[] = {"q35", NULL};

    o->machine.type = value;
    return choose("--machine", value, words, err) < 0 ? -EINVAL : 0;
}

static int set_memory(struct run_options *o, const char *value, struct err *err)
{
    int r = parse_size(value, 1 << 20, &o->machine.memory, err);

    if (r < 0) {
        err_prefix(err, "--memory");
        return r;
    }
    if (o->machine.memory < MACHINE_MIN_MEMORY)
        return err_set(err, EINVAL, "--memory %s is too little; give at least 1M.", value);
    if (o->machine.memory > MACHINE_MAX_MEMORY)
        return err_set(err, EINVAL, "--memory %s is too much; give at most %lluG.", value,
                       (unsigned long long)(MACHINE_MAX_MEMORY >> 30));
    if (o->machine.memory & PAGE_MASK)
        return err_set(err, EINVAL, "--memory %s is not a multiple of 4K.", value);
    return 0;
}

static int set_cpus(struct run_options *o, const char *value, struct err *err)
{
    unsigned long n;
    int r = parse_number("--cpus", value, VM_MAX_VCPUS, &n, err);

    if (r == 0 && !n)
        r = err_set(err, EINVAL, "--cpus 0 leaves nothing to run on; give 1 to %d.", VM_MAX_VCPUS);
    o->machine.ncpus = (unsigned)n;
    return r;
}

static int set_cpu(struct run_options *o, const char *value, struct err *err)
{
    static const char *const words[] = {"486", "pentium3", "v1", "v2", "v3", "v4", "max", NULL};

    o->machine.cpu = value;
    return choose("--cpu", value, words, err) < 0 ? -EINVAL : 0;
}

/*
 * without=FEATURE, and FEATURE after it: for tests, host features not to be used. 1: it was that.
 * What the list goes on with is anything that is no feature.
 */
static int without_field(struct run_options *o, const char *field, struct err *err)
{
    bool first = !strncmp(field, "without=", 8);
    uint32_t feature = hostcpu_feature(first ? field + 8 : field);

    if (!feature && first)
        return err_set(err, EINVAL, "--engine: there is no feature '%s'; use " HOSTCPU_NAMES ".",
                       field + 8);
    if (!feature || (!first && !o->machine.host_without))
        return 0;
    o->machine.host_without |= feature;
    return 1;
}

/* flags=exact and place=any, of both that translate. */
static bool translator_field(struct run_options *o, const char *field)
{
    bool exact = !strcmp(field, "flags=exact"), anywhere = !strcmp(field, "place=any");

    o->machine.engine_options.exact_flags |= exact;
    o->machine.engine_options.anywhere |= anywhere;
    return exact || anywhere;
}

/* bt[,warm=N][,times] */
static int bt_field(struct run_options *o, const char *field, struct err *err)
{
    unsigned long warm;
    int r;

    if (!strcmp(field, "times")) {
        o->machine.engine_options.times = true;
        return 0;
    }
    if (strncmp(field, "warm=", 5))
        return err_set(
            err, EINVAL,
            "--engine bt takes warm=N, times, flags=exact, place=any and without=FEATURE, not '%s'.",
            field);
    r = parse_number("--engine bt,warm", field + 5, 255, &warm, err);
    if (r == 0)
        o->machine.engine_options.warm = (unsigned)warm;
    return r;
}

/* lockstep[,plant=N], which is for tests */
static int lockstep_field(struct run_options *o, const char *field, struct err *err)
{
    unsigned long plant;
    int r;

    if (strncmp(field, "plant=", 6))
        return err_set(err, EINVAL,
                       "--engine lockstep takes flags=exact, place=any and without=FEATURE, not "
                       "'%s'.",
                       field);
    r = parse_number("--engine lockstep,plant", field + 6, 6, &plant, err);
    if (r == 0)
        o->machine.engine_options.plant = (unsigned)plant;
    return r;
}

static int set_engine(struct run_options *o, const char *value, struct err *err)
{
    static const struct engine *const engines[] = {&engine_bt, &engine_interp, &engine_lockstep};
    static const char *const words[] = {"bt", "interp", "lockstep", NULL};
    char *rest = own(o, strdup(value)), *name, *field;
    int i;

    if (!rest)
        return err_set(err, ENOMEM, "no memory for the options.");
    name = next_field(&rest);
    i = choose("--engine", name, words, err);
    if (i < 0)
        return i;
    o->machine.engine = engines[i];
    o->machine.engine_options =
        (struct engine_options){.perf_map = o->machine.engine_options.perf_map};
    o->machine.host_without = 0;
    while ((field = next_field(&rest))) {
        int r = without_field(o, field, err);

        if (r == 0 && i != 1 && translator_field(o, field))
            continue;
        if (r == 0)
            r = i == 0   ? bt_field(o, field, err)
                : i == 2 ? lockstep_field(o, field, err)
                         : err_set(err, EINVAL, "--engine %s takes no options but without=FEATURE.",
                                   name);
        if (r < 0)
            return r;
    }
    return 0;
}

static int set_clock(struct run_options *o, const char *value, struct err *err)
{
    static const char *const words[] = {"real", "virtual", NULL};
    int i = choose("--clock", value, words, err);

    o->machine.clock = i == 1 ? CLOCK_VIRTUAL : CLOCK_REAL;
    return i < 0 ? i : 0;
}

static int set_net(struct run_options *o, const char *value, struct err *err)
{
    (void)o;
    if (strcmp(value, "none"))
        return err_set(err, EINVAL, "--net %s: there is no network yet; use --net none.", value);
    return 0;
}

static int set_display(struct run_options *o, const char *value, struct err *err)
{
    (void)o;
    if (strcmp(value, "none"))
        return err_set(err, EINVAL, "--display %s: there is no display yet; use --display none.",
                       value);
    return 0;
}

static int set_name(struct run_options *o, const char *value, struct err *err)
{
    o->machine.name = value;
    if (!vm_name_ok(value))
        return err_set(
            err, EINVAL,
            "--name '%s' can not be used; take up to %d letters, digits, '.', '_' or '-'.", value,
            NAME_MAX_LEN);
    return 0;
}

static int set_debug_exit(struct run_options *o, const char *value, struct err *err)
{
    unsigned long port = 0;
    int r = value ? parse_number("--debug-exit", value, 0xffff, &port, err) : 0;

    o->machine.debug_exit = true;
    o->machine.debug_exit_port = (uint16_t)port;
    return r;
}

static int set_sandbox(struct run_options *o, const char *value, struct err *err)
{
    static const char *const words[] = {"on", "debug", "off", NULL};
    int i = choose("--sandbox", value, words, err);

    if (i < 0)
        return i;
    o->sandbox = (enum sandbox_mode)i;
    return 0;
}

/* ---- --disk FILE[,bus=nvme,ro,snapshot,PROP=VALUE...] ---- */

static int switch_value(const char *name, const char *value, bool *out, struct err *err)
{
    if (!value || !strcmp(value, "on") || !strcmp(value, "yes") || !strcmp(value, "true"))
        *out = true;
    else if (!strcmp(value, "off") || !strcmp(value, "no") || !strcmp(value, "false"))
        *out = false;
    else
        return err_set(err, EINVAL, "--disk: %s=%s is neither on nor off.", name, value);
    return 0;
}

static int disk_field(struct machine_disk *disk, char *field, struct err *err)
{
    static const char *const buses[] = {"nvme", NULL};
    static const char *const words[] = {"bus", "ro", "snapshot", "serial", NULL};
    char *value = strchr(field, '=');
    const char *near;

    if (value)
        *value++ = 0;
    if (!strcmp(field, "bus")) {
        disk->bus = value ? value : "";
        return choose("--disk: bus", disk->bus, buses, err) < 0 ? -EINVAL : 0;
    }
    if (!strcmp(field, "ro"))
        return switch_value(field, value, &disk->ro, err);
    if (!strcmp(field, "snapshot"))
        return switch_value(field, value, &disk->snapshot, err);
    if (!value || !*field) {
        near = nearest_word(field, words);
        return err_set(err, EINVAL, "--disk: '%s' is unknown; %s%s%s", field,
                       near ? "did you mean '"
                            : "after FILE come bus=nvme, ro and snapshot, and a comma"
                              " in FILE is written twice.",
                       near ? near : "", near ? "'?" : "");
    }
    if (disk->nprops == MACHINE_MAX_PROPS)
        return err_set(err, EINVAL, "--disk: more than %d properties.", MACHINE_MAX_PROPS);
    disk->props[disk->nprops++] = (struct machine_prop){.name = field, .value = value};
    return 0;
}

static int set_disk(struct run_options *o, const char *value, struct err *err)
{
    struct machine_disk *disk = &o->machine.disks[o->machine.ndisks];
    char *rest, *field;

    if (o->machine.ndisks == MACHINE_MAX_DISKS)
        return err_set(err, EINVAL, "--disk: a machine takes at most %d disks.", MACHINE_MAX_DISKS);
    rest = own(o, strdup(value));
    if (!rest)
        return err_set(err, ENOMEM, "no memory for the options.");
    memset(disk, 0, sizeof(*disk));
    disk->path = next_field(&rest);
    if (!*disk->path)
        return err_set(err, EINVAL, "--disk needs a file: --disk FILE[,bus=nvme,ro,snapshot].");
    while ((field = next_field(&rest))) {
        int r = disk_field(disk, field, err);

        if (r < 0)
            return r;
    }
    o->machine.ndisks++;
    return 0;
}

/* ---- the table ---- */

static const struct option options[] = {
    {"kernel", "FILE", NULL, "boot this kernel: Linux bzImage, PVH or multiboot ELF", set_kernel,
     0},
    {"initrd", "FILE", NULL, "its initial RAM disk; multiboot: modules, 'FILE ARGS,FILE2 ARGS'",
     set_initrd, 0},
    {"append", "TEXT", NULL, "its command line", set_append, 0},
    {"bios", "FILE", NULL, "start this ROM image at the reset vector instead of a kernel", set_bios,
     0},
    {"machine", "TYPE", "q35", "q35: Intel Q35 and ICH9", set_machine, 0},
    {"memory", "SIZE", "512M", "guest RAM: K, M, G or T; a bare number counts M", set_memory, 0},
    {"cpus", "N", "1", "processors, up to 64", set_cpus, 0},
    {"cpu", "MODEL", "max", "486, pentium3, v1, v2, v3, v4 (x86-64 levels) or max", set_cpu, 0},
    {"disk", "FILE[,OPT...]", NULL,
     "a raw disk image; OPT is bus=nvme, ro, snapshot (writes are lost) or serial=TEXT", set_disk,
     0},
    {"net", "none", "none", "no network card", set_net, 0},
    {"serial", "WHERE", "stdio", "first serial port: stdio, file:PATH, unix:PATH (listens) or null",
     set_serial, 0},
    {"debugcon", "WHERE", NULL, "port E9h, as for --serial", set_debugcon, 0},
    {"display", "none", "none", "no display", set_display, 0},
    {"engine", "NAME[,OPT...]", "bt",
     "bt: the translator; warm=N: what has run N times is translated; times: see inspect;"
     " flags=exact: flags that nobody reads are kept for who looks after a fault;"
     " place=any: all code is translated as what runs at several addresses is;"
     " interp: the interpreter; or lockstep: both, compared;"
     " without=FEATURE[,FEATURE...]: host features not to use",
     set_engine, 0},
    {"clock", "KIND", "real",
     "real, or virtual: time is counted in instructions and runs repeat exactly", set_clock, 0},
    {"name", "NAME", "vm-PID", "what ps, inspect, trace and stop call it", set_name, 0},
    {"trace", "PATTERNS", NULL, "print accesses, e.g. 'i8254.*,irq,msr' (docs/control.md)",
     set_trace, 0},
    {"trace-file", "FILE", "stderr", "where --trace prints", set_trace_file, 0},
    {"perf-map", NULL, NULL, "name translated code for perf, in /tmp/perf-PID.map", set_perf_map,
     0},
    {"debug-exit", "[PORT]", NULL,
     "a write of V to this port (501h) ends the VM with status V * 2 + 1 (8 bits)", set_debug_exit,
     OPT_OPTIONAL},
    {"no-reboot", NULL, NULL, "a reset ends the VM, with status 6", set_no_reboot, 0},
    {"no-acpi", NULL, NULL, "no ACPI tables", set_no_acpi, 0},
    {"sandbox", "MODE", "on", "on, debug (name the call that is refused) or off", set_sandbox, 0},
    {"verbose", NULL, NULL, "say more on standard error", set_verbose, 0},
    {"help", NULL, NULL, "this list", set_help, 0},
    {"print-hash", NULL, NULL, "at the end, print instructions retired and a hash of RAM",
     set_print_hash, OPT_HIDDEN},
};

void options_usage(FILE *out)
{
    fputs(
        "doppel run: start a virtual machine.\n\n"
        "  doppel run --kernel vmlinuz --initrd initrd.gz --append console=ttyS0\n"
        "  doppel run --kernel vmlinuz --append 'console=ttyS0 root=/dev/nvme0n1' --disk disk.img\n"
        "  doppel run --bios firmware.bin --memory 64M --serial file:serial.log\n\n"
        "Unless you say otherwise: --machine q35 --memory 512M --cpus 1 --cpu max --engine interp\n"
        "--clock real --serial stdio --net none --display none --sandbox on.\n"
        "doppel run --help lists every option; man doppel says the rest.\n",
        out);
}

void options_help(FILE *out)
{
    size_t i;

    fputs("usage: doppel run [OPTION...] [THING]\n\n"
          "THING is a kernel or a ROM image; doppel looks which.\n\n",
          out);
    for (i = 0; i < ARRAY_LEN(options); i++) {
        const struct option *opt = &options[i];
        char left[64];

        if (opt->flags & OPT_HIDDEN)
            continue;
        snprintf(left, sizeof(left), "--%s%s%s", opt->name, opt->arg ? " " : "",
                 opt->arg ? opt->arg : "");
        fprintf(out, "  %-22s %s", left, opt->help);
        if (opt->fallback)
            fprintf(out, " [%s]", opt->fallback);
        fputc('\n', out);
    }
    fputs("\nExit status: 0 power-off, 2 wrong use, 4 the host failed, 6 reboot (--no-reboot),\n"
          "8 the guest died, 10 stopped by the operator; odd: --debug-exit.\n",
          out);
}

static const struct option *find_option(const char *name, size_t len)
{
    size_t i;

    for (i = 0; i < ARRAY_LEN(options); i++)
        if (strlen(options[i].name) == len && !strncmp(options[i].name, name, len))
            return &options[i];
    return NULL;
}

static int unknown_option(const char *name, size_t len, struct err *err)
{
    const char *words[ARRAY_LEN(options) + 1];
    char word[64];
    const char *near;
    size_t i, n = 0;

    for (i = 0; i < ARRAY_LEN(options); i++)
        if (!(options[i].flags & OPT_HIDDEN))
            words[n++] = options[i].name;
    words[n] = NULL;
    snprintf(word, sizeof(word), "%.*s", (int)min_u64(len, sizeof(word) - 1), name);
    near = nearest_word(word, words);
    if (near)
        return err_set(err, EINVAL, "there is no option --%s; did you mean --%s?", word, near);
    return err_set(err, EINVAL, "there is no option --%s; doppel run --help lists them all.", word);
}

/* ---- THING ---- */

static bool is_rom(const uint8_t *tail, uint64_t size)
{
    /* The reset vector, 16 bytes below the end, begins with a jump: far (EAh), near (E9h) or short
     * (EBh). */
    return size >= 4096 && size <= (16u << 20) && size % 4096 == 0 &&
           (tail[0] == 0xea || tail[0] == 0xe9 || tail[0] == 0xeb);
}

static int set_thing(struct run_options *o, const char *thing, struct err *err)
{
    uint8_t head[1024] = {0}, tail[16] = {0}, iso[6] = {0};
    struct stat st;
    ssize_t n;
    int fd = open(thing, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        int r = err_set(err, errno, "%s cannot be opened: %s.", thing, strerror(errno));

        if (fd >= 0)
            close(fd);
        return r;
    }
    n = pread(fd, head, sizeof(head), 0);
    if (st.st_size >= (off_t)sizeof(tail))
        n = n < 0 ? n : pread(fd, tail, sizeof(tail), st.st_size - (off_t)sizeof(tail));
    n = n < 0 ? n : pread(fd, iso, sizeof(iso), 0x8000);
    close(fd);
    if (S_ISDIR(st.st_mode))
        return err_set(err, EISDIR, "%s is a directory; name a kernel with --kernel FILE.", thing);
    if (n < 0)
        return err_set(err, EIO, "%s cannot be read.", thing);
    if (!memcmp(head + 0x202, "HdrS", 4) || !memcmp(head, "\177ELF", 4)) {
        o->machine.kernel = thing;
        return 0;
    }
    if (!memcmp(iso + 1, "CD001", 5))
        return err_set(err, EINVAL,
                       "%s is a CD image, which can not be booted yet; use --kernel and --initrd.",
                       thing);
    if (is_rom(tail, (uint64_t)st.st_size)) {
        o->machine.bios = thing;
        return 0;
    }
    if (head[510] == 0x55 && head[511] == 0xaa)
        return err_set(err, EINVAL, "%s is a disk image; use --disk %s with --kernel FILE.", thing,
                       thing);
    return err_set(
        err, EINVAL,
        "%s is neither a kernel nor a ROM image; say what it is with --kernel, --bios or --disk.",
        thing);
}

/* ---- parsing ---- */

/* What only shows when everything is known. */
static int check_together(const struct run_options *o, struct err *err)
{
    const struct machine_config *m = &o->machine;

    if (m->kernel && m->bios)
        return err_set(err, EINVAL, "--kernel and --bios exclude each other; give one of them.");
    if (!m->kernel && !m->bios)
        return err_set(err, EINVAL, "there is nothing to boot; give --kernel FILE or --bios FILE.");
    if (!m->kernel && m->initrd)
        return err_set(err, EINVAL, "--initrd belongs to a kernel; add --kernel FILE.");
    if (!m->kernel && m->append)
        return err_set(err, EINVAL, "--append belongs to a kernel; add --kernel FILE.");
    if (m->trace_file && !m->trace)
        return err_set(err, EINVAL,
                       "--trace-file needs --trace PATTERNS, for example --trace '*'.");
    if (m->serial && m->debugcon && !strcmp(m->serial, "stdio") && !strcmp(m->debugcon, "stdio"))
        return err_set(err, EINVAL,
                       "--serial and --debugcon can not both be stdio; send one to a file.");
    return 0;
}

static int parse_one(struct run_options *o, int argc, char **argv, int *i, struct err *err)
{
    const char *name = argv[*i] + (argv[*i][1] == '-' ? 2 : 1);
    size_t len = strcspn(name, "=");
    const char *value = name[len] ? name + len + 1 : NULL;
    const struct option *opt = find_option(name, len);
    const char *next = *i + 1 < argc ? argv[*i + 1] : NULL;

    if (!opt)
        return unknown_option(name, len, err);
    if (!opt->arg && value)
        return err_set(err, EINVAL, "--%s takes no value.", opt->name);
    if (opt->arg && !value && next &&
        (!(opt->flags & OPT_OPTIONAL) || isdigit((unsigned char)*next))) {
        value = next;
        ++*i;
    }
    if (opt->arg && !value && !(opt->flags & OPT_OPTIONAL))
        return err_set(err, EINVAL, "--%s needs a value: --%s %s.", opt->name, opt->name, opt->arg);
    return opt->set(o, value, err);
}

int options_parse_run(struct run_options *o, int argc, char **argv, struct err *err)
{
    bool thing = false;
    int i, r;

    memset(o, 0, sizeof(*o));
    machine_config_defaults(&o->machine);
    o->machine.name = NULL; /* run.c makes one up */
    for (i = 0; i < argc; i++) {
        if (argv[i][0] == '-' && argv[i][1]) {
            r = parse_one(o, argc, argv, &i, err);
        } else if (thing) {
            r = err_set(err, EINVAL, "'%s' is one thing to boot too many.", argv[i]);
        } else {
            thing = true;
            r = set_thing(o, argv[i], err);
        }
        if (r < 0)
            return -EINVAL;
        if (o->help)
            return 0;
    }
    return check_together(o, err) < 0 ? -EINVAL : 0;
}

void options_fini(struct run_options *o)
{
    while (o->nowned)
        free(o->owned[--o->nowned]);
    free(o->owned);
    o->owned = NULL;
}
