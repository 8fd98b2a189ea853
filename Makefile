# SPDX-License-Identifier: Apache-2.0
# The only build system. Targets: all demo check check-slow bench fuzz lint fmt soak install clean.
#   make MODE=asan|ubsan|tsan ...   builds and tests under build/MODE with that sanitiser
#   NO_INSTALL=1                    never install packages: name what is missing and stop

MODE    ?=
BUILD   ?= build$(if $(MODE),/$(MODE))
CC       = gcc
CLANG    = clang
PREFIX  ?= /usr/local

WARN     = -Wall -Wextra -Werror
PKGS     = zydis libseccomp json-c
CFLAGS  ?= -O2 -g
CFLAGS_asan  = -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
CFLAGS_ubsan = -fsanitize=undefined -fno-sanitize-recover=undefined -O1
CFLAGS_tsan  = -fsanitize=thread -O1
ALL_CFLAGS = -std=gnu17 -Isrc -I. $(WARN) $(CFLAGS) $(CFLAGS_$(MODE)) -fno-omit-frame-pointer -pthread
LIBS     = -lZydis -lseccomp -ljson-c -pthread

# ---- what is built ---------------------------------------------------------------------------

BASE    = err hostcpu log
CORE    = bus clock device dma gate irq loop mem state trace vcpu vm
CPU     = cpu_state model msr paging pv
INTERP  = access atomic bit block branch decimal decode event far hostcode int io rmw run seg \
          stack string sys task thunk thunk_gen tlb vec
BT      = cache form lockstep lockstep_report look loop run segment stubs system tlb translate \
          unpaged x87
HW      = acpi/ich9_pm block/nvme block/nvme_admin block/nvme_io char/uart16550a input/i8042 \
          intc/i8259 intc/ioapic intc/lapic misc/coproc_err misc/debugcon misc/fw_cfg misc/i8237 \
          misc/ignored_ports misc/isa_debug_exit pci/ich9_lpc pci/msi pci/pci pci/q35_host \
          timer/i8254 timer/mc146818
MACHINE = acpi aml boot/bzimage boot/e820 boot/elf boot/loader boot/multiboot boot/pvh machine \
          props q35 report run
BACKEND = block/raw char/chardev char/charfd char/file char/stdio char/unix
CONTROL = client commands ctl doctor janitor options qmp run rundir sandbox verbs

SRC = $(BASE:%=src/base/%.c) $(CORE:%=src/core/%.c) $(CPU:%=src/cpu/%.c) \
      $(INTERP:%=src/engine/interp/%.c) $(BT:%=src/engine/bt/%.c) $(HW:%=src/hw/%.c) $(MACHINE:%=src/machine/%.c) \
      $(BACKEND:%=src/backend/%.c) $(CONTROL:%=src/control/%.c)
OBJ = $(SRC:src/%.c=$(BUILD)/%.o)

# Test programs: src path under tests/unit without _test.c.
UNIT    = base/hostcpu backend/block/raw backend/char/chardev control/ctl control/options control/qmp \
          control/sandbox core/bus core/clock core/device core/irq core/state core/trace core/vcpu \
          cpu/cpu_state cpu/model cpu/msr cpu/paging engine/bt/stubs engine/bt/translate engine/interp/block engine/interp/decode \
          engine/interp/event engine/interp/far engine/interp/int engine/interp/seg \
          engine/interp/sys engine/interp/thunk engine/interp/tlb hw/acpi/ich9_pm hw/block/nvme \
          hw/char/uart16550a hw/input/i8042 hw/intc/i8259 hw/intc/ioapic hw/intc/lapic \
          hw/misc/coproc_err hw/misc/debugcon hw/misc/fw_cfg hw/misc/i8237 hw/misc/ignored_ports \
          hw/misc/isa_debug_exit hw/pci/msi hw/pci/pci hw/pci/q35_host hw/timer/i8254 \
          hw/timer/mc146818 machine/acpi machine/bzimage machine/e820 machine/multiboot \
          machine/props machine/pvh machine/report
FUZZ    = bzimage coproc_err debugcon decode fw_cfg i8042 i8237 i8254 i8259 ich9_lpc ich9_pm \
          ignored_ports ioapic isa_debug_exit lapic mc146818 msi multiboot nvme pci pvh qmp translate \
          uart16550a
TESTLIB = fuzzdev testvm

HOSTDIFF = hostdiff hostdiff_gen hostdiff_native hostdiff_vm

TESTLIB_OBJ = $(TESTLIB:%=$(BUILD)/tests/lib/%.o)

# ---- rules -------------------------------------------------------------------------------------

.PHONY: all deps install clean fmt lint
# Objects of test programs are kept: a second make has nothing to do.
.SECONDARY:

all: deps
	@$(MAKE) --no-print-directory $(BUILD)/doppel

# Names or installs what is missing from the distribution's packages.
deps:
	@scripts/install-deps.sh build

$(BUILD)/doppel: $(BUILD)/main.o $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS)

# The Makefile as well: an object may have left the list.
$(BUILD)/libdoppel.a: $(OBJ) Makefile
	@rm -f $@
	ar rcs $@ $(OBJ)

# An object bears the time at which its compilation began: a header edited meanwhile is newer.
define compile
@mkdir -p $(@D)
@touch $@.began
$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<
@touch -r $@.began $@ && rm $@.began
endef

$(BUILD)/%.o: src/%.c
	$(compile)

$(BUILD)/tests/%.o: tests/%.c
	$(compile)

include tests/tests.mk
include bench/bench.mk

lint: $(OBJ)
	@scripts/lint.sh $(BUILD) $(HW:%=$(BUILD)/hw/%.o)

fmt:
	@scripts/install-deps.sh fmt
	clang-format -i $$(git ls-files 'src/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]')

install: all
	install -D -m 755 $(BUILD)/doppel $(DESTDIR)$(PREFIX)/bin/doppel
	install -D -m 644 docs/doppel.1 $(DESTDIR)$(PREFIX)/share/man/man1/doppel.1

clean:
	rm -rf $(BUILD)

-include $(OBJ:.o=.d) $(BUILD)/main.d $(UNIT:%=$(BUILD)/tests/unit/%_test.d) \
         $(FUZZ:%=$(BUILD)/tests/fuzz/%_fuzz.d) $(HOSTDIFF:%=$(BUILD)/tests/cpu/%.d) \
         $(TESTLIB_OBJ:.o=.d) $(BUILD)/tests/lib/unit.d $(BUILD)/tests/lib/fuzzmain.d
