# SPDX-License-Identifier: Apache-2.0
# Tests. Every list in the Makefile; here is how each kind is built and run.

UNIT_BIN = $(UNIT:%=$(BUILD)/tests/unit/%_test)
# Short random runs of the fuzz targets in every check, without clang: tests/lib/fuzzmain.c drives them.
FUZZ_BIN = $(FUZZ:%=$(BUILD)/tests/fuzz/%_run)

$(BUILD)/tests/unit/%_test: $(BUILD)/tests/unit/%_test.o $(TESTLIB_OBJ) $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS) -lcmocka

$(BUILD)/tests/fuzz/%_run: $(BUILD)/tests/fuzz/%_fuzz.o $(BUILD)/tests/lib/fuzzmain.o $(TESTLIB_OBJ) $(BUILD)/libdoppel.a
	$(CC) $(ALL_CFLAGS) -o $@ $^ $(LIBS)
