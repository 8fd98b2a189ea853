/* SPDX-License-Identifier: Apache-2.0 */
/* Building a machine: checks what was asked for, reads the files, makes the VM and its CPUs. */
#include "machine/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "machine/internal.h"

#define ROM_ROOM (16ull << 20)

void machine_config_defaults(struct machine_config *config)
{
    *config = (struct machine_config){
        .name = "doppel",
        .memory = 512ull << 20,
        .ncpus = 1,
        .cpu = "max",
        .engine = &engine_bt,
        .clock = CLOCK_REAL,
        .serial = "stdio",
    };
}

static int open_file(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 ? err_set(err, errno, "cannot open %s: %s", path, strerror(errno)) : fd;
}

/* Of a regular file, 1 to `max` bytes; `path` is for messages. */
static int file_size(int fd, const char *path, uint64_t max, size_t *size, struct err *err)
{
    struct stat st;

    if (fstat(fd, &st))
        return err_set(err, errno, "cannot read %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "%s is not a regular file", path);
    if (st.st_size <= 0)
        return err_set(err, EINVAL, "%s is empty", path);
    if ((uint64_t)st.st_size > max)
        return err_set(err, EFBIG, "%s has %llu KiB and at most %llu fit", path,
                       (unsigned long long)st.st_size >> 10, (unsigned long long)max >> 10);
    *size = (size_t)st.st_size;
    return 0;
}

static int read_all(int fd, const char *path, uint8_t *buf, size_t size, struct err *err)
{
    for (size_t len = 0; len < size;) {
        ssize_t n = pread(fd, buf + len, size - len, (off_t)len);

        if (n < 0 && errno != EINTR)
            return err_set(err, errno, "cannot read %s: %s", path, strerror(errno));
        if (n == 0)
            return err_set(err, EIO, "%s became shorter while it was read", path);
        if (n > 0)
            len += (size_t)n;
    }
    return 0;
}

int machine_read_file(const char *path, uint64_t max, uint8_t **data, size_t *size, struct err *err)
{
    int fd = open_file(path, err), r;
    uint8_t *buf = NULL;

    if (fd < 0)
        return fd;
    r = file_size(fd, path, max, size, err);
    if (r == 0 && !(buf = malloc(*size)))
        r = err_set(err, ENOMEM, "out of memory reading %s", path);
    if (r == 0)
        r = read_all(fd, path, buf, *size, err);
    close(fd);
    if (r) {
        free(buf);
        return r;
    }
    *data = buf;
    return 0;
}

static int check_config(const struct machine_config *config, struct err *err)
{
    if (config->type && strcmp(config->type, "q35"))
        return err_set(err, EINVAL, "there is no machine '%s': use q35", config->type);
    if (!config->kernel && !config->bios)
        return err_set(err, EINVAL, "there is nothing to boot: give a --kernel or a --bios");
    if (config->kernel && config->bios)
        return err_set(err, EINVAL, "--kernel and --bios exclude each other: give one of them");
    if (!config->kernel && (config->initrd || config->append))
        return err_set(err, EINVAL, "--initrd and --append need a --kernel");
    if (config->memory < MACHINE_MIN_MEMORY || config->memory > MACHINE_MAX_MEMORY)
        return err_set(err, EINVAL, "a guest has between 1M and %lluG of memory: change --memory",
                       MACHINE_MAX_MEMORY >> 30);
    if (config->memory & PAGE_MASK)
        return err_set(err, EINVAL, "memory comes in pages of 4K: round --memory");
    if (config->ncpus < 1 || config->ncpus > VM_MAX_VCPUS)
        return err_set(err, EINVAL, "a VM has between 1 and %d CPUs: change --cpus", VM_MAX_VCPUS);
    if (config->clock == CLOCK_VIRTUAL && config->ncpus > 1)
        return err_set(err, EINVAL,
                       "the virtual clock counts the instructions of one CPU: use "
                       "--cpus 1 with --clock virtual");
    if (config->ndisks > MACHINE_MAX_DISKS)
        return err_set(err, EINVAL, "a VM has at most %d disks", MACHINE_MAX_DISKS);
    return 0;
}

static void forget(struct boot_file *file)
{
    if (file->data)
        munmap((void *)file->data, file->size);
    file->data = NULL;
}

/* Not malloc: what is freed there need not go back to the host. */
static int read_boot_file(const struct machine *m, struct boot_file *file, struct err *err)
{
    int r = file_size(file->fd, file->name, m->memory, &file->size, err);
    uint8_t *data;

    if (r == -EFBIG)
        return err_set(err, EFBIG,
                       "%s is larger than the guest's memory: give it more with --memory",
                       file->name);
    if (r)
        return r;
    data = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return err_set(err, ENOMEM, "out of memory reading %s", file->name);
    file->data = data;
    r = read_all(file->fd, file->name, data, file->size, err);
    if (r)
        forget(file);
    return r;
}

/* file->name is there. */
static int open_boot_file(const struct machine *m, struct boot_file *file, struct err *err)
{
    int fd = open_file(file->name, err);

    if (fd < 0)
        return fd;
    file->fd = fd;
    file->opened = true;
    return read_boot_file(m, file, err);
}

int machine_read_boot_files(struct machine *m, struct err *err)
{
    struct boot_input *boot = &m->boot;
    int r = boot->kernel.data ? 0 : read_boot_file(m, &boot->kernel, err);

    for (unsigned i = 0; r == 0 && i < boot->nmodules; i++)
        if (!boot->module[i].data)
            r = read_boot_file(m, &boot->module[i], err);
    return r;
}

void machine_forget_boot_files(struct machine *m)
{
    forget(&m->boot.kernel);
    for (unsigned i = 0; i < m->boot.nmodules; i++)
        forget(&m->boot.module[i]);
}

static void boot_file_fini(struct boot_file *file)
{
    forget(file);
    if (file->opened)
        close(file->fd);
    free((void *)file->name);
}

static int read_modules(struct machine *m, const char *initrd, struct err *err)
{
    char *args[BOOT_MAX_MODULES];
    int n = 1, r;

    m->module_list = strdup(initrd);
    if (!m->module_list)
        return err_set(err, ENOMEM, "out of memory");
    args[0] = m->module_list;
    if (m->kind == BOOT_MULTIBOOT)
        n = boot_split_modules(m->module_list, args, BOOT_MAX_MODULES);
    if (n < 0)
        return err_set(err, EINVAL, "a kernel takes at most %d modules", BOOT_MAX_MODULES);
    for (int i = 0; i < n; i++) {
        struct boot_file *file = &m->boot.module[i];
        size_t len = m->kind == BOOT_MULTIBOOT ? strcspn(args[i], " ") : strlen(args[i]);
        char *path = strndup(args[i], len);

        if (!path)
            return err_set(err, ENOMEM, "out of memory");
        file->args = args[i];
        file->name = path;
        m->boot.nmodules = (unsigned)i + 1;
        r = open_boot_file(m, file, err);
        if (r)
            return r;
    }
    return 0;
}

static int read_kernel(struct machine *m, const struct machine_config *config, struct err *err)
{
    struct boot_input *boot = &m->boot;
    int r;

    boot->kernel.name = strdup(config->kernel);
    boot->cmdline = strdup(config->append ? config->append : "");
    if (!boot->kernel.name || !boot->cmdline)
        return err_set(err, ENOMEM, "out of memory");
    r = open_boot_file(m, &boot->kernel, err);
    if (r)
        return r;
    boot->long_mode = cpu_has(&m->model, FEAT_LM);
    m->kind = boot_sniff(boot->kernel.data, boot->kernel.size);
    return config->initrd ? read_modules(m, config->initrd, err) : 0;
}

static int build(struct machine *m, const struct machine_config *config, struct err *err)
{
    struct vm_config vm = {
        .name = config->name,
        .ram_bytes = config->memory + (config->bios ? ROM_ROOM : 0),
        .clock = config->clock,
        .engine = config->engine ? config->engine : &engine_bt,
        .engine_options = config->engine_options,
        .host_without = config->host_without,
        .with_loop = true,
    };
    int r = vm_init(&m->vm, &vm, err);

    if (r)
        return r;
    m->vm_made = true;
    if (config->clock == CLOCK_VIRTUAL)
        clock_set_wall_base(m->vm.clock,
                            config->wall_base ? config->wall_base : MACHINE_VIRTUAL_EPOCH);
    r = machine_watch_sigquit(m, err);
    if (r)
        return r;
    r = cpu_model_init(&m->model, config->cpu ? config->cpu : "max", config->ncpus, m->vm.tsc_hz,
                       m->vm.host, err);
    for (unsigned i = 0; r == 0 && i < config->ncpus; i++)
        r = vm_add_vcpu(&m->vm, &m->model, err) ? 0 : -EINVAL;
    if (r == 0 && config->trace)
        r = trace_start(&m->vm.trace, config->trace, config->trace_file, err);
    if (r == 0 && config->kernel)
        r = read_kernel(m, config, err);
    if (r == 0)
        r = q35_build(m, config, err);
    if (r == 0 && m->direct_boot)
        r = q35_describe(m, config, err);
    if (r == 0)
        r = machine_reset(m, RESET_COLD, err);
    return r;
}

struct machine *machine_new(const struct machine_config *config, struct err *err)
{
    struct machine *m;

    if (check_config(config, err))
        return NULL;
    m = calloc(1, sizeof(*m));
    if (!m) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    m->memory = config->memory;
    m->no_reboot = config->no_reboot;
    m->direct_boot = config->kernel != NULL;
    machine_run_init(m);
    if (build(m, config, err)) {
        machine_free(m);
        return NULL;
    }
    return m;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    if (m->vm_made) {
        machine_unwatch_sigquit(m);
        while (m->vm.ndevices)
            device_free(m->vm.devices[m->vm.ndevices - 1]);
        for (unsigned i = 0; i < m->nblocks; i++)
            block_free(m->blocks[i]);
        if (m->serial)
            chardev_free(m->serial);
        if (m->debugcon)
            chardev_free(m->debugcon);
        vm_fini(&m->vm);
    }
    for (unsigned i = 0; i < m->boot.nmodules; i++)
        boot_file_fini(&m->boot.module[i]);
    free(m->module_list);
    boot_file_fini(&m->boot.kernel);
    free((void *)m->boot.cmdline);
    acpi_tables_fini(&m->acpi);
    machine_run_fini(m);
    free(m);
}

struct vm *machine_vm(struct machine *m)
{
    return &m->vm;
}
