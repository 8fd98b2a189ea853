/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/props.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A number, decimal, octal or hexadecimal; `size` allows K, M, G and T. */
static bool parse_uint(const char *text, bool size, uint64_t *out)
{
    static const char units[] = "KMGT";
    unsigned long long v;
    const char *unit;
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    v = strtoull(text, &end, 0);
    if (errno)
        return false;
    if (size && *end && (unit = strchr(units, *end & ~0x20))) {
        unsigned shift = 10 * ((unsigned)(unit - units) + 1);

        if (v > UINT64_MAX >> shift)
            return false;
        v <<= shift;
        end++;
    }
    *out = v;
    return *end == '\0';
}

static bool parse_bool(const char *text, bool *out)
{
    *out =
        !strcmp(text, "on") || !strcmp(text, "yes") || !strcmp(text, "true") || !strcmp(text, "1");
    return *out || !strcmp(text, "off") || !strcmp(text, "no") || !strcmp(text, "false") ||
           !strcmp(text, "0");
}

int props_set(const struct prop *props, void *config, const char *name, const char *value,
              struct err *err)
{
    for (const struct prop *p = props; p && p->name; p++) {
        uint8_t *field = (uint8_t *)config + p->offset;
        uint64_t v = 0;
        bool on = false;

        if (strcmp(p->name, name))
            continue;
        switch (p->kind) {
        case PROP_BOOL:
            if (!parse_bool(value, &on))
                return err_set(err, EINVAL, "%s=%s: say on or off", name, value);
            memcpy(field, &on, sizeof(on));
            return 0;
        case PROP_UINT:
        case PROP_SIZE:
            if (!parse_uint(value, p->kind == PROP_SIZE, &v))
                return err_set(err, EINVAL, "%s=%s is not a number", name, value);
            memcpy(field, &v, sizeof(v));
            return 0;
        case PROP_STRING:
            memcpy(field, &value, sizeof(value));
            return 0;
        }
    }
    return err_set(err, EINVAL, "there is no option '%s' here", name);
}
