# SPDX-License-Identifier: Apache-2.0
"""Drives build/doppel from outside: a VM on pipes or on a terminal, and what tests ask of it."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOPPEL = os.environ.get("DOPPEL", os.path.join(TOP, "build", "doppel"))
GUESTS = os.environ.get("GUESTS_DIR", os.path.join(TOP, "build", "guests"))


class Timeout(Exception):
    pass


class VM:
    """One `doppel run`. Everything it prints is kept in .output; standard error in .errors."""

    def __init__(self, args, tty=False, env=None, stdin=True):
        self.output = b""
        self.at = 0
        self.stderr = tempfile.TemporaryFile()
        self.command = [DOPPEL, "run"] + args
        environment = dict(os.environ, **(env or {}))
        if tty:
            self.master, slave = pty.openpty()
            self.slave = slave
            self.before = termios.tcgetattr(slave)
            self.process = subprocess.Popen(self.command, stdin=slave, stdout=slave,
                                            stderr=self.stderr, env=environment,
                                            start_new_session=True,
                                            preexec_fn=lambda: _own_terminal(slave))
            self.infd = self.outfd = self.master
        else:
            self.slave = self.master = None
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=self.stderr, env=environment)
            self.infd = self.process.stdin.fileno() if stdin else None
            self.outfd = self.process.stdout.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            if stream:
                try:
                    stream.close()
                except OSError:
                    pass
        for fd in (self.master, self.slave):
            if fd is not None:
                os.close(fd)
        self.master = self.slave = None

    def errors(self):
        self.stderr.seek(0)
        return self.stderr.read().decode("utf-8", "replace")

    def text(self):
        return self.output.decode("utf-8", "replace")

    def _read(self, timeout):
        """False at the end of the output."""
        ready, _, _ = select.select([self.outfd], [], [], max(0, timeout))
        if not ready:
            return True
        try:
            data = os.read(self.outfd, 65536)
        except OSError:
            return False
        self.output += data
        return bool(data)

    def expect(self, pattern, timeout=60):
        """Waits for a regular expression in what has not been matched yet."""
        deadline = time.monotonic() + timeout
        pattern = re.compile(pattern.encode())
        while True:
            found = pattern.search(self.output, self.at)
            if found:
                self.at = found.end()
                return found
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise Timeout("no %r within %d s; the end of the output:\n%s\n%s" % (
                    pattern.pattern, timeout, self.text()[-3000:], self.errors()[-3000:]))

    def send(self, text):
        os.write(self.infd, text.encode())

    def run(self, command, timeout=60):
        """A command at the guest's shell prompt; its output."""
        self.send(command + "\n")
        self.expect(re.escape(command[-40:]) + r"\r*\n", timeout)
        start = self.at
        found = self.expect(r"(?m)^/ # ", timeout)
        return self.output[start:found.start()].decode("utf-8", "replace").replace("\r", "")

    def wait(self, timeout=60):
        """The exit status; output is read to its end."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise Timeout("still running after %d s; the end of the output:\n%s\n%s" % (
                    timeout, self.text()[-3000:], self.errors()[-3000:]))
            self._read(0.05)
        while select.select([self.outfd], [], [], 0)[0] and self._read(0):
            pass
        return self.process.returncode


def _own_terminal(slave):
    import fcntl
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def resident(pid, ram):
    """KiB of memory that a process holds: (all but guest RAM of `ram` MiB, that RAM)."""
    total = guest = size = 0
    with open("/proc/%d/smaps" % pid) as lines:
        for line in lines:
            words = line.split()
            if words[0] == "Size:":
                size = int(words[1])
            elif words[0] == "Rss:":
                total += int(words[1])
                if ram * 768 <= size <= ram * 1024 + 1024:
                    guest += int(words[1])
    return total - guest, guest


def doppel(*args, env=None, timeout=60):
    """A verb that ends by itself: (status, output, errors)."""
    done = subprocess.run([DOPPEL] + list(args), stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=timeout, env=dict(os.environ, **(env or {})), check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


# A ROM that says hello, then echoes the serial port; '!' ends the VM through isa-debug-exit with status 9.
ECHO_ROM_CODE = bytes.fromhex(
    "be0001"      # mov si, text
    "2eac"        # next: lodsb cs:[si]
    "84c0"        # test al, al
    "7406"        # jz echo
    "baf803"      # mov dx, 3f8h
    "ee"          # out dx, al
    "ebf4"        # jmp next
    "bafd03"      # echo: mov dx, 3fdh
    "ec"          # in al, dx
    "a801"        # test al, 1
    "74f8"        # jz echo
    "baf803"      # mov dx, 3f8h
    "ec"          # in al, dx
    "ee"          # out dx, al
    "3c21"        # cmp al, '!'
    "75ef"        # jne echo
    "ba0105"      # mov dx, 501h
    "b004"        # mov al, 4
    "ee"          # out dx, al
    "ebe7")       # jmp echo


def echo_rom(path):
    rom = bytearray(b"\xff" * 65536)
    rom[0:len(ECHO_ROM_CODE)] = ECHO_ROM_CODE
    rom[0x100:0x108] = b"hello\r\n\0"
    rom[0xfff0:0xfff3] = b"\xe9" + (0x10000 - 0xfff3).to_bytes(2, "little")
    with open(path, "wb") as out:
        out.write(rom)
    return path


def kill_quietly(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def need(path):
    if not os.path.exists(path):
        sys.exit("%s is missing; scripts/fetch-guest.sh and make build it." % path)
    return path
