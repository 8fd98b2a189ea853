# SPDX-License-Identifier: Apache-2.0
# make bench: the workloads on the host, on doppel and, where it is installed, on QEMU; see
# docs/performance.md. BENCH="..." passes options to bench/run.

BENCH_DIR = build/bench
BENCH_SRC = $(wildcard bench/guest/*.c)

.PHONY: bench bench-build
bench:
	@scripts/install-deps.sh build guests bench
	@$(MAKE) --no-print-directory $(BUILD)/doppel bench-build
	bench/run --doppel $(BUILD)/doppel $(BENCH)

bench-build: $(BENCH_DIR)/initrd.gz

# musl: what a program does is then the same everywhere, and memcpy is `rep movs`.
$(BENCH_DIR)/bench: $(BENCH_SRC) bench/guest/bench.h
	@mkdir -p $(@D)
	musl-gcc -O2 -fno-tree-vectorize -Wall -Wextra -Werror -static -pthread -idirafter /usr/include \
	    -idirafter /usr/include/$$(gcc -print-multiarch) -o $@ $(BENCH_SRC) -lm

# What the tool-* workloads work on, in the guest and natively alike; the guest's files are its root.
$(BENCH_DIR)/root/corpus: $(BENCH_DIR)/bench bench/guest/init
	@scripts/fetch-guest.sh cloud busybox
	@mkdir -p $(@D)/bin
	cp build/guests/busybox/busybox $(BENCH_DIR)/bench $(@D)/bin
	cp bench/guest/init $(@D)/init
	$(@D)/bin/busybox awk 'BEGIN { for (i = x = 1; i <= 30000; i++) { w = ""; \
	    for (n = 3 + x % 7; n > 0; n--) { x = (x * 1103515 + 12345) % 2147483; w = w sprintf("%c", 97 + x % 26) }; \
	    print w, x % 100000, i } }' >$(@D)/text
	head -c 524288 $(@D)/bin/busybox >$@

$(BENCH_DIR)/initrd.gz: $(BENCH_DIR)/root/corpus scripts/make-initrd.sh
	scripts/make-initrd.sh cloud $@ $(BENCH_DIR)/root
