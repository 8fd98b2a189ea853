# SPDX-License-Identifier: Apache-2.0
# Tests. The lists are in the Makefile; here is how each kind is built and run.

UNIT_BIN = $(UNIT:%=$(BUILD)/tests/unit/%_test)
# Short random runs of the fuzz targets in every check, without clang: tests/lib/fuzzmain.c drives them.
FUZZ_BIN = $(FUZZ:%=$(BUILD)/tests/fuzz/%_run)

$(BUILD)/tests/unit/%_test: $(BUILD)/tests/unit/%_test.o $(BUILD)/tests/lib/unit.o $(TESTLIB_OBJ) $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS) -lcmocka

$(BUILD)/tests/fuzz/%_run: $(BUILD)/tests/fuzz/%_fuzz.o $(BUILD)/tests/lib/fuzzmain.o $(TESTLIB_OBJ) $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS)

# ---- tiny guests: tests/guest/guests.list says how each is built and run -------------------------

GUEST_FLAGS = -ffreestanding -fno-pic -no-pie -nostdlib -static -mgeneral-regs-only -mno-red-zone \
              -fno-stack-protector -fcf-protection=none -O1 -Wall -Wextra -Werror \
              -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments
GUEST_RT    = tests/guest/rt/boot.S tests/guest/rt/rt.c
GUEST_DEPS  = $(GUEST_RT) $(wildcard tests/guest/rt/*.h) tests/guest/rt/link.ld
GUESTS      = $(shell sed -n 's/^\([a-z0-9_]*\) .*/\1/p' tests/guest/guests.list)
GUEST_BIN   = $(filter %64.elf %32.elf,$(GUESTS:%=build/guests/tiny/%.elf)) \
              $(patsubst %,build/guests/tiny/%.rom,$(filter %16,$(GUESTS)))

build/guests/tiny/quad64.elf: tests/guest/xsmp64.c

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

# ---- make check ------------------------------------------------------------------------------------

.PHONY: check check-build check-list check-slow check-slow-list fuzz soak demo

# Boots of whole systems under a sanitiser take too long and show nothing that the tiny guests do not.
WITH_BOOTS = $(if $(MODE),,yes)
# TSan owns the low addresses at which hostdiff's child maps what the guest sees, and its signal wrapper
# runs with the AC flag that a thunk has set for a guest's alignment check.
NOT_TSAN      = $(filter-out tsan,$(or $(MODE),plain))
CHECK_FUZZ    = $(if $(NOT_TSAN),$(FUZZ),$(filter-out decode translate,$(FUZZ)))
# Interpreter against translator, block by block: the guests that are done in seconds, and those that are not.
LOCKSTEP      = exc64 exc32 real16 unpaged16 paging64 \
                $(if $(MODE),,code64 code32 code16 fpu64 mode64 pci64 place64 remap64 vec64)
LOCKSTEP_SLOW = fault64 flags64 operand64 step64
# ASan and TSan make system calls of their own: their builds run without sandbox.
CHECK_UNIT    = $(if $(filter asan tsan,$(MODE)),$(filter-out control/sandbox,$(UNIT)),$(UNIT))
# The limits of guests.list are for a plain build.
GUEST_LIMIT   = $(if $(MODE),LIMIT=600 )
HOSTDIFF_SLICE = --per-mnemonic $(if $(MODE),30,80)

check:
	@scripts/install-deps.sh build test $(if $(WITH_BOOTS),guests)
	@$(MAKE) --no-print-directory check-build
	@$(MAKE) --no-print-directory -s check-list | tests/run

check-build: $(BUILD)/doppel $(UNIT_BIN) $(FUZZ_BIN) $(BUILD)/tests/cpu/hostdiff $(GUEST_BIN)
	@$(if $(WITH_BOOTS),scripts/fetch-guest.sh cloud busybox)

TAB := $(shell printf '\t')
define line
@printf '%s\t%s\t%s\n' '$(1)' '$(2)' '$(3)'

endef

COMMA := ,
LOCKSTEP_EXACT = lockstep$(COMMA)flags=exact
LOCKSTEP_ANY = lockstep$(COMMA)place=any
BT_ANY = bt$(COMMA)warm=1$(COMMA)place=any

check-list:
	$(if $(MODE),,$(call line,lint,120,make -s lint))
	$(if $(NOT_TSAN),$(call line,cpu/hostdiff,300,$(BUILD)/tests/cpu/hostdiff $(HOSTDIFF_SLICE)))
	$(if $(NOT_TSAN),$(call line,cpu/hostdiff bt,300,$(BUILD)/tests/cpu/hostdiff --engine bt $(HOSTDIFF_SLICE)))
	$(if $(NOT_TSAN),$(foreach e,interp bt,$(call line,cpu/hostdiff runs $(e),300,$(BUILD)/tests/cpu/hostdiff --engine $(e) --runs --cases $(if $(MODE),5000,40000))))
	$(if $(NOT_TSAN),$(call line,cpu/hostdiff place=any,300,$(BUILD)/tests/cpu/hostdiff --engine bt$(COMMA)place=any --runs --cases $(if $(MODE),5000,40000)))
	$(foreach t,$(CHECK_UNIT),$(call line,unit/$(t),120,$(BUILD)/tests/unit/$(t)_test))
	$(foreach t,$(CHECK_FUZZ),$(call line,fuzz/$(t),60,$(BUILD)/tests/fuzz/$(t)_run --seconds=2))
	$(foreach e,interp bt,$(foreach t,$(GUESTS),$(call line,guest/$(t) $(e),600,$(GUEST_LIMIT)tests/guest/run $(BUILD)/doppel $(t) --engine $(e))))
	$(foreach t,$(filter %64,$(GUESTS)),$(call line,guest/$(t) place=any,600,$(GUEST_LIMIT)tests/guest/run $(BUILD)/doppel $(t) --engine $(BT_ANY)))
	$(call line,guest/without,300,$(GUEST_LIMIT)tests/guest/without.sh $(BUILD)/doppel)
	$(foreach t,$(LOCKSTEP),$(call line,lockstep/$(t),400,LIMIT=400 tests/guest/run $(BUILD)/doppel $(t) --engine lockstep --clock virtual))
	$(foreach t,exc64 paging64,$(call line,lockstep/$(t) flags=exact,400,LIMIT=400 tests/guest/run $(BUILD)/doppel $(t) --engine $(LOCKSTEP_EXACT) --clock virtual))
	$(foreach t,exc64 paging64 $(if $(MODE),,place64 remap64),$(call line,lockstep/$(t) place=any,400,LIMIT=400 tests/guest/run $(BUILD)/doppel $(t) --engine $(LOCKSTEP_ANY) --clock virtual))
	$(call line,lockstep/plants,300,tests/guest/lockstep_plants.sh $(BUILD)/doppel)
	$(if $(WITH_BOOTS),$(call line,lockstep/linux,400,python3 tests/e2e/linux_boot.py Lockstep))
	$(if $(WITH_BOOTS),$(foreach t,Quick Ends Idle Virtual,$(call line,e2e/linux $(t),400,python3 tests/e2e/linux_boot.py $(t))))
	$(if $(WITH_BOOTS),$(call line,e2e/control,300,python3 tests/e2e/control_test.py))

$(BUILD)/tests/cpu/hostdiff: $(HOSTDIFF:%=$(BUILD)/tests/cpu/%.o) $(TESTLIB_OBJ) $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS)

# ---- make fuzz: libFuzzer, ASan, UBSan; prints the share of each file's lines that was reached -------

FUZZ_SECONDS ?= 60
fuzz:
	@scripts/install-deps.sh build fuzz
	@tests/fuzz/fuzz.sh $(FUZZ_SECONDS) $(or $(T),$(FUZZ))

# ---- make check-slow: every kernel, other systems --------------------------------------------------

check-slow:
	@scripts/install-deps.sh build test guests
	@$(MAKE) --no-print-directory check-build
	@$(MAKE) --no-print-directory -s check-slow-list | tests/run

check-slow-list:
	$(call line,slow/linux,1800,python3 tests/e2e/linux_boot.py)
	$(foreach t,$(LOCKSTEP_SLOW),$(call line,lockstep/$(t),1800,LIMIT=1800 tests/guest/run $(BUILD)/doppel $(t) --engine lockstep --clock virtual))
	$(call line,slow/small systems,1800,tests/e2e/small_systems.sh)

# ---- make soak T=name ---------------------------------------------------------------------------------

SOAK_CPU = $(BUILD)/tests/cpu/hostdiff --cases 10000000 && \
           $(BUILD)/tests/cpu/hostdiff --runs --cases 1000000 && \
           $(BUILD)/tests/cpu/hostdiff --engine bt --cases 10000000 && \
           $(BUILD)/tests/cpu/hostdiff --engine bt --runs --cases 2000000

soak:
	@scripts/install-deps.sh build test guests
	@$(MAKE) --no-print-directory check-build
	@$(if $(filter cpu,$(T)),$(SOAK_CPU),tests/e2e/soak.sh $(or $(T),boot))

demo:
	@scripts/install-deps.sh build guests
	@$(MAKE) --no-print-directory $(BUILD)/doppel
	@DOPPEL=$(BUILD)/doppel scripts/demo.sh
