#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unmodified Debian kernels from start to power-off.

linux_boot.py             every test but the soak
linux_boot.py Quick       the one that `make check` runs: the cloud kernel to its shell, disk and all
linux_boot.py soak N      N boots of the cloud kernel in a row; prints how many succeeded
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import harness
from harness import VM

# A loaded machine of two cores boots in tens of seconds; this is for hangs.
BOOT = int(os.environ.get("BOOT_TIMEOUT", "180"))
CONSOLE = "console=ttyS0"


def script(name, *args):
    subprocess.run([os.path.join(harness.TOP, "scripts", name)] + list(args), check=True)


def guest_files(kernel, directory):
    """Kernel and initramfs; the latter is packed once per run of the tests."""
    script("fetch-guest.sh", "busybox", kernel)
    vmlinuz = harness.need(os.path.join(harness.GUESTS, kernel, "vmlinuz"))
    initrd = os.path.join(directory, kernel + ".gz")
    if not os.path.exists(initrd):
        script("make-initrd.sh", kernel, initrd)
    return vmlinuz, initrd


def allowed(name):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name)) as lines:
        return [re.compile(line.strip()) for line in lines if line.strip() and not line.startswith("#")]


def not_allowed(lines, name):
    patterns = allowed(name)
    return [line for line in lines if not any(pattern.search(line) for pattern in patterns)]


def guest_lines(text, word):
    """What scripts/init says with `word`."""
    return re.findall(r"(?m)^doppel-guest: %s (.*?)\r*$" % word, text)


class Boot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.mkdtemp(prefix="doppel-")
        os.environ["XDG_RUNTIME_DIR"] = cls.shared

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.shared)

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="doppel-")
        self.disk = os.path.join(self.dir, "disk.img")
        script("make-disk.sh", self.disk, "32M")

    def tearDown(self):
        shutil.rmtree(self.dir)

    def vm(self, kernel="cloud", append="", args=(), vmlinuz=None, **kw):
        default, initrd = guest_files(kernel, self.shared)
        vmlinuz = vmlinuz or default
        self.unknown = os.path.join(self.dir, "unknown")
        return VM(["--kernel", vmlinuz, "--initrd", initrd, "--append", (CONSOLE + " " + append).strip(),
                   "--disk", self.disk, "--net", "none", "--display", "none",
                   "--trace", "unknown", "--trace-file", self.unknown] + list(args), **kw)

    def steps(self, steps, status=0, append="", **kw):
        """Runs steps of scripts/init; returns (output, errors)."""
        with self.vm(append="doppel.test=" + steps + " " + append, **kw) as vm:
            vm.expect(r"doppel-guest: \S+, ", BOOT)
            self.assertEqual(vm.wait(BOOT), status, vm.text()[-2000:] + vm.errors()[-4000:])
            text, errors = vm.text(), vm.errors()
        self.check_clean(text)
        return text, errors

    def check_clean(self, text):
        """No warning, no oops, no unknown register."""
        self.assertEqual(not_allowed(guest_lines(text, "warning"), "dmesg_allow.txt"), [])
        self.assertNotRegex(text, r"Call Trace:|BUG:|Oops:|WARNING: CPU|does not load")
        with open(self.unknown) as lines:
            self.assertEqual(not_allowed(lines.read().splitlines(), "unknown_allow.txt"), [])

    def host_file(self, name):
        """A file of the guest's disk, read on the host without mounting it."""
        done = subprocess.run(["debugfs", "-R", "cat /" + name, self.disk], capture_output=True,
                              check=True, env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
        return done.stdout

    def check_fs(self):
        done = subprocess.run(["e2fsck", "-fn", self.disk], capture_output=True, text=True, check=False,
                              env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
        self.assertEqual(done.returncode, 0, done.stdout)

    def interactive(self, kernel, append="", **kw):
        with self.vm(kernel, append, **kw) as vm:
            vm.expect(r"doppel-guest: \S+, /dev/nvme0n1 on /mnt", BOOT)
            vm.expect(r"(?m)^/ # ", BOOT)
            self.assertIn("Linux", vm.run("uname -a"))
            self.assertIn("processor\t: 0", vm.run("cat /proc/cpuinfo"))
            self.assertIn("hello from the host", vm.run("cat /mnt/from-host"))
            warnings = vm.run("dmesg -r | grep '^<[0-4]>'").splitlines()
            self.assertEqual(not_allowed(warnings, "dmesg_allow.txt"), [])
            vm.run("echo written by the guest >/mnt/note; cat /bin/busybox >/mnt/copy; sync")
            self.assertIn("Stopped", vm.run("sleep 100 & kill -STOP $!; sleep 1; jobs"))
            vm.send("umount /mnt; poweroff -f\n")
            self.assertEqual(vm.wait(BOOT), 0, vm.errors())
            text = vm.text()
        self.check_clean(text)
        self.assertEqual(self.host_file("note"), b"written by the guest\n")
        with open(os.path.join(harness.GUESTS, "busybox", "busybox"), "rb") as busybox:
            self.assertEqual(self.host_file("copy"), busybox.read())
        self.check_fs()


class Quick(Boot):
    def test_cloud_kernel_reaches_a_shell_and_keeps_what_it_writes(self):
        self.interactive("cloud")


class Kernels(Boot):
    def test_generic_kernel_reaches_a_shell_and_keeps_what_it_writes(self):
        self.interactive("generic")

    def test_on_a_terminal(self):
        self.interactive("cloud", tty=True)

    def test_variants(self):
        for kernel in ("cloud", "generic"):
            for append in ("mitigations=off", "pci=nomsi", "nokaslr nopti"):
                with self.subTest(kernel=kernel, append=append):
                    text, _ = self.steps("read,write,work,irqs,dmesg", append=append, kernel=kernel)
                    self.assertEqual(guest_lines(text, "file"), ["hello from the host"])
                    self.assertEqual("PCI-MSI" in text.split("doppel-guest: irq", 1)[1],
                                     "nomsi" not in append)

    def test_two_processors(self):
        text, _ = self.steps("cpus,work,dmesg", args=["--cpus", "2"])
        self.assertEqual(guest_lines(text, "cpus"), ["2"])

    def test_models(self):
        for model in ("v1", "v2", "v3"):
            with self.subTest(model=model):
                self.steps("work,dmesg", args=["--cpu", model])


class Ends(Boot):
    def test_reboot_ends_with_6_where_asked(self):
        self.steps("reboot", status=6, args=["--no-reboot"])

    def test_reboot_boots_again(self):
        with self.vm(append="doppel.test=reboot") as vm:
            vm.expect(r"doppel-guest: \S+, ", BOOT)
            vm.expect(r"doppel-guest: \S+, ", BOOT)
            vm.process.terminate()
            self.assertEqual(vm.wait(BOOT), 10)

    def test_reboot_without_a_kernel_file_ends_the_machine(self):
        kernel = os.path.join(self.dir, "vmlinuz")
        shutil.copy(os.path.join(harness.GUESTS, "cloud", "vmlinuz"), kernel)
        with self.vm(append="doppel.test=reboot", vmlinuz=kernel) as vm:
            vm.expect(r"doppel-guest: \S+, ", BOOT)
            os.truncate(kernel, 0)
            self.assertEqual(vm.wait(BOOT), 4)
            self.assertIn("cannot boot again: " + kernel + " is empty", vm.errors())

    def test_panic_with_a_timeout_is_a_reboot(self):
        with self.vm(append="doppel.test=panic panic=-1", args=["--no-reboot"]) as vm:
            vm.expect("Kernel panic - not syncing: sysrq triggered crash", BOOT)
            self.assertEqual(vm.wait(BOOT), 6)

    def test_panic_without_one_stands_until_stopped(self):
        with self.vm(append="doppel.test=panic", args=["--name", "p"]) as vm:
            vm.expect("end Kernel panic", BOOT)
            time.sleep(1)
            self.assertIsNone(vm.process.poll())
            status, report, _ = harness.doppel("report", "p")
            self.assertEqual(status, 0)
            self.assertIn("rip", report.lower())
            self.assertEqual(harness.doppel("stop", "p")[0], 0)
            self.assertEqual(vm.wait(BOOT), 10)

    def test_power_button(self):
        with self.vm(args=["--name", "b"]) as vm:
            vm.expect(r"(?m)^/ # ", BOOT)
            # What acpid would hear: the first interrupt of the ACPI controller.
            vm.send("while grep -q '^ *9: *0 ' /proc/interrupts; do sleep 0.1; done; poweroff -f\n")
            time.sleep(1)
            status, _, err = harness.doppel("stop", "b", "--powerdown")
            self.assertEqual(status, 0, err + vm.text())
            self.assertEqual(vm.wait(BOOT), 0)

    def test_snapshot_loses_writes(self):
        with open(self.disk, "rb") as disk:
            before = disk.read()
        self.disk += ",snapshot"
        self.steps("write")
        with open(self.disk.split(",")[0], "rb") as disk:
            self.assertEqual(disk.read(), before)

    def test_read_only_disk(self):
        self.disk += ",ro"
        text, _ = self.steps("read")
        self.assertEqual(guest_lines(text, "file"), ["hello from the host"])


class Idle(Boot):
    LIMIT = 40 * 1024

    def test_at_a_shell_the_process_holds_little_beside_guest_memory(self):
        with self.vm(args=["--memory", "512M"]) as vm:
            vm.expect(r"(?m)^/ # ", BOOT)
            deadline = time.monotonic() + 30
            # What only translating needs is given back some time after the last of it.
            while True:
                time.sleep(1)
                over, guest = harness.resident(vm.process.pid, 512)
                if over <= self.LIMIT or time.monotonic() > deadline:
                    break
            self.assertGreater(guest, 64 * 1024)
            self.assertLessEqual(over, self.LIMIT)
            print("idle: %.1f MiB over guest memory" % (over / 1024))


class Virtual(Boot):
    def test_two_runs_are_the_same(self):
        ends = []
        for _ in range(2):
            shutil.copy(self.disk, self.disk + ".run")
            plain, self.disk = self.disk, self.disk + ".run"
            _, errors = self.steps("read,write,work", args=["--clock", "virtual", "--print-hash"])
            self.disk = plain
            ends.append(re.search(r"icount \d+ ram [0-9a-f]+", errors).group(0))
        self.assertEqual(ends[0], ends[1])


class Lockstep(Boot):
    """Interpreter and translator, block by block; virtual time, so that a slow run is not another one."""

    args = ["--engine", "lockstep", "--clock", "virtual"]

    def counts(self, errors):
        found = re.search(r"doppel: lockstep: .* no difference$", errors, re.M)
        self.assertIsNotNone(found, errors[-20000:])
        return found.group(0)

    def test_first_instructions_of_the_kernel(self):
        with self.vm(append="earlyprintk=ttyS0", args=self.args) as vm:
            vm.expect(r"Memory: \d+K/", BOOT)
            vm.process.terminate()
            self.assertEqual(vm.wait(BOOT), 10, vm.errors()[-20000:])
            self.counts(vm.errors())


class LockstepSoak(Lockstep):
    def test_first_instructions_of_the_kernel(self):
        start = time.monotonic()
        _, errors = self.steps("read,write,work", args=self.args)
        print("soak lockstep: %.0f s: %s" % (time.monotonic() - start, self.counts(errors)))


class Soak(Boot):
    count = 20

    def test_boots_in_a_row(self):
        good = 0
        start = time.monotonic()
        for _ in range(self.count):
            try:
                self.steps("read,write,dmesg")
                self.check_fs()
                good += 1
            except (AssertionError, harness.Timeout) as error:
                print(error, file=sys.stderr)
        print("soak boot: %d of %d boots succeeded, %.1f s each" % (
            good, self.count, (time.monotonic() - start) / self.count))
        self.assertEqual(good, self.count)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "soak":
        Soak.count = int(sys.argv.pop())
        sys.argv[1] = "Soak"
    elif all(arg.startswith("-") for arg in sys.argv[1:]):
        sys.argv += ["Quick", "Kernels", "Ends", "Idle", "Virtual", "Lockstep"]
    unittest.main()
