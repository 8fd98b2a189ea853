#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command from outside: run, ps, inspect, trace, stop, report; terminals, sockets, hostile clients."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import termios
import time
import unittest

import harness
from harness import VM, doppel


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="doppel-")
        os.environ["XDG_RUNTIME_DIR"] = self.dir
        self.rom = harness.echo_rom(os.path.join(self.dir, "echo.rom"))

    def tearDown(self):
        shutil.rmtree(self.dir)

    def vm(self, *args, name="t", **kw):
        return VM(["--bios", self.rom, "--memory", "16M", "--debug-exit", "--name", name] + list(args), **kw)

    def rundir(self, name="t"):
        return os.path.join(self.dir, "doppel", name)

    def connect(self, name="t"):
        conn = socket.socket(socket.AF_UNIX)
        # Blocking: with a timeout, a full queue of connections would be an error at once.
        conn.connect(os.path.join(self.rundir(name), "control.sock"))
        conn.settimeout(10)
        self.addCleanup(conn.close)
        return conn

    def gone(self, path):
        for _ in range(200):
            if not os.path.exists(path):
                return True
            time.sleep(0.02)
        return False


class Usage(Case):
    def test_run_alone_prints_examples(self):
        status, out, _ = doppel("run")
        self.assertEqual(status, 2)
        self.assertEqual(out.count("  doppel run"), 3)

    def test_slips_are_named(self):
        for args, word in ((["--kernl", "x"], "--kernel"), (["--cpu", "maxx"], "'max'"),
                           (["--engine", "inter"], "'interp'"), (["--clock", "virtal"], "'virtual'")):
            status, _, err = doppel("run", *args)
            self.assertEqual(status, 2)
            self.assertIn("did you mean " + word, err)
        self.assertIn("did you mean doppel inspect", doppel("inspct")[2])

    def test_missing_file_is_bad_usage(self):
        status, _, err = doppel("run", "--bios", "/nonexistent")
        self.assertEqual(status, 2)
        self.assertIn("/nonexistent", err)
        self.assertEqual(os.listdir(os.path.join(self.dir, "doppel")), [])

    def test_doctor_speaks_json(self):
        _, out, _ = doppel("doctor", "--json")
        self.assertIn("processor", [row["what"] for row in json.loads(out)])


class Life(Case):
    def test_pipes_carry_bytes_both_ways(self):
        with self.vm() as vm:
            vm.expect("hello\r\n")
            vm.send("abc")
            vm.expect("abc")
            vm.send("!")
            self.assertEqual(vm.wait(), 9)

    def test_end_of_input_leaves_the_guest_running(self):
        with self.vm(stdin=False) as vm:
            vm.expect("hello")
            time.sleep(0.2)
            self.assertEqual(doppel("stop", "t")[0], 0)
            self.assertEqual(vm.wait(), 10)

    def test_a_closed_reader_does_not_end_the_vm(self):
        with self.vm() as vm:
            vm.expect("hello")
            vm.process.stdout.close()
            vm.process.stdout = None
            vm.send("abc")
            time.sleep(0.3)
            self.assertIsNone(vm.process.poll())
            vm.send("!")
            self.assertEqual(vm.process.wait(20), 9)

    def test_much_input_arrives_in_order(self):
        text = "".join(chr(ord("a") + i % 26) for i in range(20000))
        with self.vm() as vm:
            vm.expect("hello\r\n")
            vm.send(text)
            vm.expect(text)

    def test_input_from_a_file(self):
        path = os.path.join(self.dir, "input")
        with open(path, "w") as out:
            out.write("x" * 5000 + "!")
        with open(path) as stdin:
            done = subprocess.run([harness.DOPPEL, "run", "--bios", self.rom, "--debug-exit"],
                                  stdin=stdin, capture_output=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout), (9, b"hello\r\n" + b"x" * 5000 + b"!"))

    def test_signals_stop_it_and_leave_nothing(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.vm() as vm:
                vm.expect("hello")
                vm.process.send_signal(number)
                self.assertEqual(vm.wait(), 10)
                self.assertFalse(os.path.exists(self.rundir()))

    def test_a_killed_vm_leaves_nothing(self):
        with self.vm() as vm:
            vm.expect("hello")
            vm.process.kill()
            vm.wait()
            self.assertTrue(self.gone(self.rundir()))

    def test_names_are_unique_and_come_back(self):
        with self.vm() as vm:
            vm.expect("hello")
            status, _, err = doppel("run", "--bios", self.rom, "--name", "t")
            self.assertEqual(status, 2)
            self.assertIn("running already", err)
            vm.send("!")
            vm.wait()
        with self.vm() as vm:
            vm.expect("hello")

    def test_a_stale_directory_is_cleared(self):
        os.makedirs(self.rundir("dead"), mode=0o700)
        os.chmod(os.path.join(self.dir, "doppel"), 0o700)
        with open(os.path.join(self.rundir("dead"), "pid"), "w") as out:
            out.write("1\n")
        self.assertNotIn("dead", doppel("ps")[1])
        self.assertFalse(os.path.exists(self.rundir("dead")))

    def test_a_directory_of_others_is_refused(self):
        os.mkdir(os.path.join(self.dir, "doppel"), 0o777)
        os.chmod(os.path.join(self.dir, "doppel"), 0o777)
        self.assertEqual(doppel("run", "--bios", self.rom, "--name", "t")[0], 2)


class Terminal(Case):
    def test_raw_mode_and_back(self):
        with self.vm(tty=True) as vm:
            vm.expect("hello")
            self.assertFalse(termios.tcgetattr(vm.slave)[3] & termios.ICANON)
            vm.send("\x03")
            vm.expect("\x03")
            vm.send("\x01x")
            self.assertEqual(vm.wait(), 10)
            self.assertEqual(termios.tcgetattr(vm.slave), vm.before)

    def test_escape_key_reaches_the_guest_doubled(self):
        with self.vm(tty=True) as vm:
            vm.expect("hello\r\n")
            vm.send("q\x01aw")
            vm.expect("q\x01w")

    def test_a_killed_vm_gives_the_terminal_back(self):
        with self.vm(tty=True) as vm:
            vm.expect("hello")
            vm.process.kill()
            vm.process.wait()
            self.assertTrue(self.gone(self.rundir()))
            self.assertEqual(termios.tcgetattr(vm.slave), vm.before)


class Serial(Case):
    def test_a_socket_keeps_early_output_and_takes_a_second_client(self):
        path = os.path.join(self.dir, "serial")
        with self.vm("--serial", "unix:" + path) as vm:
            while not os.path.exists(path):
                time.sleep(0.02)
            time.sleep(0.3)
            for word in (b"hello\r\n", b"abc", b"def"):
                with socket.socket(socket.AF_UNIX) as conn:
                    conn.settimeout(10)
                    conn.connect(path)
                    if word != b"hello\r\n":
                        conn.sendall(word)
                    got = b""
                    while len(got) < len(word):
                        got += conn.recv(100)
                    self.assertEqual(got, word)
            doppel("stop", "t")
            self.assertEqual(vm.wait(), 10)
        self.assertFalse(os.path.exists(path))

    def test_a_file(self):
        path = os.path.join(self.dir, "log")
        with self.vm("--serial", "file:" + path) as vm:
            for _ in range(500):
                if os.path.exists(path) and os.path.getsize(path) >= 7:
                    break
                time.sleep(0.02)
            doppel("stop", "t")
            vm.wait()
        with open(path) as log:
            self.assertEqual(log.read(), "hello\n")


class Asking(Case):
    def test_ps_inspect_report(self):
        with self.vm() as vm:
            vm.expect("hello")
            rows = json.loads(doppel("ps", "--json")[1])
            self.assertEqual([(row["name"], row["status"], row["pid"]) for row in rows],
                             [("t", "running", vm.process.pid)])
            devices = json.loads(doppel("inspect", "t", "--json")[1])
            self.assertIn("i8254", [row["type"] for row in devices])
            for row in devices:
                status, out, err = doppel("inspect", "t", row["name"], "--json")
                self.assertEqual(status, 0, err)
                json.loads(out)
            cpu = json.loads(doppel("inspect", "t", "cpu0", "--json")[1])
            for name in ("rax", "rip", "cs.base", "cr0"):
                self.assertIn(name, cpu["state"])
            self.assertEqual(doppel("report", "t")[0], 0)
            status, _, err = doppel("inspect", "t", "nonsense")
            self.assertEqual(status, 1)
            self.assertIn("nonsense", err)
            vm.send("!")
            self.assertEqual(vm.wait(), 9)

    def test_trace_follows_and_ends_with_the_vm(self):
        with self.vm() as vm:
            vm.expect("hello")
            follower = subprocess.Popen([harness.DOPPEL, "trace", "t", "uart16550a*", "--json"],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            record = json.loads(follower.stdout.readline())
            self.assertEqual(record["device"], "uart16550a")
            vm.send("!")
            vm.wait()
            follower.stdout.read()
            self.assertEqual(follower.wait(20), 0)
            follower.stdout.close()

    def test_pause_and_reset(self):
        with self.vm() as vm:
            vm.expect("hello")
            conn = self.connect()
            stream = conn.makefile("rw")
            json.loads(stream.readline())

            def call(name):
                stream.write(json.dumps({"execute": name, "id": name}))
                stream.flush()
                while True:
                    answer = json.loads(stream.readline())
                    if "event" not in answer:
                        self.assertEqual(answer["id"], name)
                        return answer["return"]

            call("qmp_capabilities")
            call("stop")
            self.assertEqual(call("query-status")["status"], "paused")
            before = call("query-vm")["time_ns"]
            vm.send("late")
            time.sleep(0.2)
            self.assertEqual(call("query-vm")["time_ns"], before)
            call("cont")
            vm.expect("late")
            call("system_reset")
            vm.expect("hello")
            names = [row["name"] for row in call("query-commands")]
            self.assertIn("inspect", names)
            self.assertNotIn("run", names)
            conn.close()


class Translator(Case):
    def test_its_counters(self):
        with self.vm("--engine", "bt,times") as vm:
            vm.expect("hello")
            self.assertIn("jit", [row["name"] for row in json.loads(doppel("inspect", "t", "--json")[1])])
            jit = json.loads(doppel("inspect", "t", "jit", "--json")[1])
            self.assertEqual(jit["type"], "engine")
            for name in ("blocks", "bytes.hot", "total.killed", "left.direct", "tlb.fills", "slow", "us.code"):
                self.assertIn(name, jit["state"])
            self.assertGreater(jit["state"]["interpreted.instructions"] + jit["state"]["instructions"], 0)
            self.assertGreater(jit["state"]["us.devices"], 0)
            self.assertRegex(doppel("inspect", "t", "jit")[1], r"blocks +\d+\n")
        with self.vm("--engine", "interp", name="i") as vm:
            vm.expect("hello")
            status, _, err = doppel("inspect", "i", "jit")
            self.assertEqual(status, 1)
            self.assertIn("interp", err)

    def test_names_for_perf_and_trace_points(self):
        trace = os.path.join(self.dir, "trace")
        tiny = os.path.join(harness.GUESTS, "tiny", "remap64.elf")
        with VM(["--kernel", tiny, "--memory", "64M", "--debug-exit", "--serial", "null", "--engine", "bt,warm=1",
                 "--perf-map", "--trace", "bt.*", "--trace-file", trace]) as vm:
            names = f"/tmp/perf-{vm.process.pid}.map"
            self.addCleanup(os.unlink, names)
            self.assertEqual(vm.wait(), 33)
        with open(names, encoding="utf-8") as lines:
            rows = [line.split() for line in lines]
        self.assertTrue(all(len(row) == 3 and int(row[0], 16) and int(row[1], 16) for row in rows))
        self.assertIn("bt:enter", [row[2] for row in rows])
        hot = sum(row[2].endswith(":cpl0:hot") for row in rows)
        self.assertGreater(hot, 100)
        self.assertEqual(os.stat(names).st_mode & 0o777, 0o600)
        with open(trace, encoding="utf-8") as lines:
            points = [line.split()[3] for line in lines]
        self.assertEqual(points.count("bt.translate"), len([row for row in rows if row[2].endswith(":hot")]))
        for point in ("bt.link", "bt.invalidate", "bt.tlb_page"):
            self.assertIn(point, points)


class Hostile(Case):
    def test_bounds_hold_and_the_vm_goes_on(self):
        with self.vm() as vm:
            vm.expect("hello")
            for junk in (b"[" * 100, b"{\"a\":" * 100, b"\0" * 1000, b"\xff\xfe\n", b"x" * 200000,
                         b"\"" + b"y" * 200000, b"{\"execute\":" + b" " * 200000):
                conn = self.connect()
                conn.recv(1000)
                try:
                    conn.sendall(junk)
                    conn.shutdown(socket.SHUT_WR)
                    while conn.recv(65536):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass
                conn.close()
            many = []
            for _ in range(40):
                many.append(self.connect())
            self.assertEqual(sum(1 for conn in many if conn.recv(1000)), 32)
            for conn in many:
                conn.close()
            slow = self.connect()
            while not slow.recv(1000):  # until the many are forgotten
                slow = self.connect()
            slow.sendall(b"{\"execute\":\"qmp_capabilities\"}")
            slow.setblocking(False)
            try:
                for _ in range(3000):
                    slow.send(b"{\"execute\":\"query-devices\"}" * 20)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
            self.assertIn("running", doppel("ps")[1])
            slow.close()
            vm.send("abc!")
            self.assertEqual(vm.wait(), 9)


if __name__ == "__main__":
    unittest.main()
