/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "control/doctor.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/hostcpu.h"
#include "control/command.h"

struct report {
    struct finding *findings;
    unsigned count;
};

static void find(struct report *r, enum finding_kind kind, const char *what, const char *follows,
                 const char *fmt, ...) PRINTF_LIKE(5, 6);

static void find(struct report *r, enum finding_kind kind, const char *what, const char *follows,
                 const char *fmt, ...)
{
    struct finding *f;
    va_list ap;

    if (r->count == DOCTOR_MAX)
        return;
    f = &r->findings[r->count++];
    f->kind = kind;
    f->follows = follows;
    snprintf(f->what, sizeof(f->what), "%s", what);
    va_start(ap, fmt);
    vsnprintf(f->detail, sizeof(f->detail), fmt, ap);
    va_end(ap);
}

static enum finding_kind good_if(bool ok)
{
    return ok ? FINDING_OK : FINDING_LACKS;
}

/* ---- processor ---- */

/* The registers of a CPUID leaf by number. */
enum { EAX, EBX, ECX, EDX };

struct cpu_bit {
    uint32_t leaf;
    unsigned reg, bit;
};

static bool has(struct cpu_bit b)
{
    uint32_t r[4] = {0};

    if (!__get_cpuid_count(b.leaf, 0, &r[EAX], &r[EBX], &r[ECX], &r[EDX]))
        return false;
    return r[b.reg] >> b.bit & 1;
}

/* What each x86-64 level adds (psABI 1.0, table 3.1), level 2 to 4; level 1 is what runs us. */
static const struct {
    unsigned level;
    struct cpu_bit bit;
} level_bits[] = {
    {2, {1, ECX, 0}},  {2, {1, ECX, 9}},  {2, {1, ECX, 13}},         {2, {1, ECX, 19}},
    {2, {1, ECX, 20}}, {2, {1, ECX, 23}}, {2, {0x80000001, ECX, 0}}, {3, {1, ECX, 12}},
    {3, {1, ECX, 22}}, {3, {1, ECX, 27}}, {3, {1, ECX, 28}},         {3, {1, ECX, 29}},
    {3, {7, EBX, 3}},  {3, {7, EBX, 5}},  {3, {7, EBX, 8}},          {3, {0x80000001, ECX, 5}},
    {4, {7, EBX, 16}}, {4, {7, EBX, 17}}, {4, {7, EBX, 28}},         {4, {7, EBX, 30}},
    {4, {7, EBX, 31}},
};

static unsigned cpu_level(void)
{
    unsigned level = 4;
    size_t i;

    for (i = 0; i < ARRAY_LEN(level_bits); i++)
        if (level_bits[i].level <= level && !has(level_bits[i].bit))
            level = level_bits[i].level - 1;
    return level;
}

static void examine_cpu(struct report *r)
{
    static const struct cpu_bit vmx = {1, ECX, 5}, svm = {0x80000001, ECX, 2}, pku = {7, ECX, 4};
    static const char *const models[] = {"v1", "v1, v2", "v1 to v3", "v1 to v4"};
    char brand[49] = "unknown processor";
    uint32_t *regs = (uint32_t[12]){0};
    unsigned i, level = cpu_level();

    if ((unsigned)__get_cpuid_max(0x80000000, NULL) >= 0x80000004) {
        for (i = 0; i < 3; i++)
            __get_cpuid(0x80000002 + i, &regs[4 * i], &regs[4 * i + 1], &regs[4 * i + 2],
                        &regs[4 * i + 3]);
        memcpy(brand, regs, 48);
    }
    find(r, FINDING_OK, "processor", "--cpu max is what this one offers", "%s", brand);
    find(r, good_if(level >= 2), "x86-64 level",
         level == 4 ? "every CPU model can be had"
                    : "CPU models above this level can not be had: their instructions run natively",
         "v%u: --cpu 486, pentium3, %s, max", level, models[level - 1]);
    find(r, good_if(has(vmx) || has(svm)), "virtualisation",
         "needed by /dev/kvm alone; the interpreter does without",
         has(vmx)   ? "Intel VMX"
         : has(svm) ? "AMD SVM"
                    : "neither VMX nor SVM is shown to this system");
    find(r, good_if(hostcpu_probe() & HOST_FSGSBASE), "FSGSBASE",
         "without it a system call enters translated code", "%s",
         hostcpu_probe() & HOST_FSGSBASE ? "usable by programs" : "not usable by programs");
    find(r, good_if(has(pku)), "protection keys", "cheaper isolation of translated code later",
         "%s", has(pku) ? "PKU" : "no PKU");
}

/* ---- kernel ---- */

static void examine_kvm(struct report *r)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version, vm = -1;

    if (fd < 0) {
        find(r, FINDING_LACKS, "/dev/kvm",
             errno == EACCES ? "join the group kvm to use it later; the interpreter needs none"
                             : "not needed: the interpreter runs every guest",
             "%s", strerror(errno));
        return;
    }
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version == KVM_API_VERSION)
        vm = ioctl(fd, KVM_CREATE_VM, 0);
    find(r, good_if(vm >= 0), "/dev/kvm", "no engine uses it yet",
         vm >= 0 ? "usable" : "there, but makes no VM (API %d)", version);
    if (vm >= 0)
        close(vm);
    close(fd);
}

static uint64_t meminfo(const char *field)
{
    FILE *in = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t kib = 0;

    while (in && fgets(line, sizeof(line), in))
        if (!strncmp(line, field, strlen(field)))
            kib = strtoull(line + strlen(field), NULL, 10);
    if (in)
        fclose(in);
    return kib;
}

static void examine_memory(struct report *r)
{
    uint64_t available = meminfo("MemAvailable:"), huge = meminfo("HugePages_Free:");
    int fd = memfd_create("doctor", MFD_CLOEXEC);
    char thp[128] = "";
    FILE *in = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");

    find(r, available >= 768 << 10 ? FINDING_OK : FINDING_LACKS, "memory",
         "a VM takes what its guest touches, up to --memory", "%" PRIu64 " MiB available",
         available >> 10);
    find(r, fd >= 0 ? FINDING_OK : FINDING_PROBLEM, "memfd", "the sandbox is set up through one", "%s",
         fd >= 0 ? "works" : strerror(errno));
    if (fd >= 0)
        close(fd);
    if (in && !fgets(thp, sizeof(thp), in))
        thp[0] = 0;
    if (in)
        fclose(in);
    thp[strcspn(thp, "\n")] = 0;
    find(r, good_if(huge || (thp[0] && !strstr(thp, "[never]"))), "huge pages",
         "fewer TLB misses for large guests", "%" PRIu64 " free; transparent: %s", huge,
         thp[0] ? thp : "not available");
}

static void examine_kernel(struct report *r)
{
    struct utsname os = {0};
    long fd;

    uname(&os);
    find(r, FINDING_OK, "kernel", "5.10 or newer is what doppel is tested on", "%s %s", os.sysname,
         os.release);
    find(r, prctl(PR_GET_SECCOMP) >= 0 ? FINDING_OK : FINDING_PROBLEM, "seccomp",
         "the sandbox; without it VMs only run with --sandbox off", "%s",
         prctl(PR_GET_SECCOMP) >= 0 ? "works" : strerror(errno));
    fd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    find(r, good_if(fd >= 0), "userfaultfd", "lazy restore of snapshots later", "%s",
         fd >= 0 ? "works" : strerror(errno));
    if (fd >= 0)
        close((int)fd);
    fd = syscall(SYS_io_uring_setup, 0, NULL);
    find(r, good_if(errno != ENOSYS && errno != EPERM), "io_uring",
         "disks use a thread instead where it is missing", "%s",
         errno != ENOSYS && errno != EPERM ? "works" : strerror(errno));
}

/* ---- what make demo and the tests call ---- */

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    char all[4096], full[4352], *save = NULL, *dir;

    /* mke2fs and depmod are where plain users do not look. */
    snprintf(all, sizeof(all), "%s:/usr/sbin:/sbin", path ? path : "/usr/bin:/bin");
    for (dir = strtok_r(all, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
        snprintf(full, sizeof(full), "%s/%s", dir, program);
        if (access(full, X_OK) == 0)
            return true;
    }
    return false;
}

static void examine_tools(struct report *r)
{
    static const struct {
        const char *program, *package;
    } tools[] = {
        {"apt-get", "apt"}, {"dpkg-deb", "dpkg"}, {"cpio", "cpio"},
        {"gzip", "gzip"},   {"modprobe", "kmod"}, {"mke2fs", "e2fsprogs"},
    };
    char missing[120] = "";
    size_t i;

    for (i = 0; i < ARRAY_LEN(tools); i++)
        if (!in_path(tools[i].program))
            snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing), " %s",
                     tools[i].package);
    find(r, good_if(!*missing), "demo",
         "make demo fetches a kernel and packs a disk with these tools",
         *missing ? "packages missing:%s" : "all tools are there%s", missing);
}

unsigned doctor_examine(struct finding findings[DOCTOR_MAX])
{
    struct report r = {.findings = findings};

    examine_cpu(&r);
    examine_kvm(&r);
    examine_memory(&r);
    examine_kernel(&r);
    examine_tools(&r);
    return r.count;
}

int doctor_main(int argc, char **argv)
{
    static const char *const words[] = {
        [FINDING_OK] = "ok", [FINDING_LACKS] = "missing", [FINDING_PROBLEM] = "PROBLEM"};
    struct finding findings[DOCTOR_MAX];
    bool json = argc == 2 && !strcmp(argv[1], "--json"), sick = false;
    unsigned i, n;
    struct json_object *list;

    if (argc > 1 && !json) {
        fprintf(stderr, "doppel doctor: '%s' is not understood.\nusage: doppel doctor [--json]\n",
                argv[1]);
        return 2;
    }
    n = doctor_examine(findings);
    list = json_object_new_array();
    for (i = 0; i < n; i++) {
        const struct finding *f = &findings[i];
        struct json_object *row = json_object_new_object();

        sick |= f->kind == FINDING_PROBLEM;
        json_object_object_add(row, "what", json_object_new_string(f->what));
        json_object_object_add(row, "status", json_object_new_string(words[f->kind]));
        json_object_object_add(row, "detail", json_object_new_string(f->detail));
        json_object_object_add(row, "follows", json_object_new_string(f->follows));
        json_object_array_add(list, row);
        if (!json)
            printf("%-8s %-16s %s\n%-26s(%s)\n", words[f->kind], f->what, f->detail, "",
                   f->follows);
    }
    if (json)
        puts(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PRETTY));
    json_object_put(list);
    return sick;
}
