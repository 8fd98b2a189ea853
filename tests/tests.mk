# SPDX-License-Identifier: Apache-2.0
# Tests. Every list in the Makefile; here is how each kind is built and run.

UNIT_BIN = $(UNIT:%=$(BUILD)/tests/unit/%_test)
# Short random runs of the fuzz targets in every check, without clang: tests/lib/fuzzmain.c drives them.
FUZZ_BIN = $(FUZZ:%=$(BUILD)/tests/fuzz/%_run)

$(BUILD)/tests/unit/%_test: $(BUILD)/tests/unit/%_test.o $(TESTLIB_OBJ) $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS) -lcmocka

$(BUILD)/tests/fuzz/%_run: $(BUILD)/tests/fuzz/%_fuzz.o $(BUILD)/tests/lib/fuzzmain.o $(TESTLIB_OBJ) $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS)

# ---- tiny guests: tests/guest/guests.list says how each is built and run -------------------------

GUEST_FLAGS = -ffreestanding -fno-pic -no-pie -nostdlib -static -mgeneral-regs-only -mno-red-zone \
              -fno-stack-protector -fcf-protection=none -O1 -Wall -Wextra -Werror \
              -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments
GUEST_RT    = tests/guest/rt/boot.S tests/guest/rt/rt.c
GUEST_DEPS  = $(GUEST_RT) tests/guest/rt/guest.h tests/guest/rt/link.ld
GUESTS      = $(shell sed -n 's/^\([a-z0-9_]*\) .*/\1/p' tests/guest/guests.list)
GUEST_BIN   = $(filter %64.elf %32.elf,$(GUESTS:%=build/guests/tiny/%.elf)) \
              $(patsubst %,build/guests/tiny/%.rom,$(filter %16,$(GUESTS)))

build/guests/tiny/%64.elf: tests/guest/%64.c $(GUEST_DEPS)
	@mkdir -p $(@D)
	$(CC) -m64 $(GUEST_FLAGS) -T tests/guest/rt/link.ld -o $@.tmp $(GUEST_RT) $<
	objcopy -O elf32-i386 $@.tmp $@ && rm $@.tmp

build/guests/tiny/%32.elf: tests/guest/%32.c $(GUEST_DEPS)
	@mkdir -p $(@D)
	$(CC) -m32 $(GUEST_FLAGS) -T tests/guest/rt/link.ld -o $@ $(GUEST_RT) $<

build/guests/tiny/%16.rom: tests/guest/%16.S
	@mkdir -p $(@D)
	$(CC) -m32 -nostdlib -static -Wl,-Ttext=0,-e0,--oformat=binary,--build-id=none -o $@ $<
