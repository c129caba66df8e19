"""The real sandbox: what functions can't do to it, how payloads pass, and what it costs."""

from __future__ import annotations

import math
import pickle
import statistics
import time

import pytest

from fleet.protocol import codec
from fleet.protocol.errors import SandboxTrap
from runtime.guest.build import GuestImage
from runtime.sandbox.wasm import BundleDamaged
from runtime.sandbox.window import Window
from runtime.slot_wire import LogLine, SlotJob, SlotProgram
from tests.sandbox.wasm_bench import MIB, Bench


def test_the_sandbox_shows_nothing_of_the_machine(bench: Bench) -> None:
    source = """
import os, socket, subprocess, sys, threading, time
def attempt(work):
    try: return work()
    except BaseException as e: return type(e).__name__
def f():
    return {
        "root": attempt(lambda: os.listdir("/home")),
        "passwd": attempt(lambda: open("/etc/passwd").read()),
        "tcp": attempt(lambda: socket.create_connection(("127.0.0.1", 4242), timeout=1)),
        "udp": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 53))),
        "dns": attempt(lambda: socket.getaddrinfo("localhost", 80)),
        "run": attempt(lambda: subprocess.run(["ls"])),
        "fork": attempt(lambda: os.fork()),
        "thread": attempt(lambda: threading.Thread(target=print).start()),
        "secrets": [k for k in os.environ if "FLEET" in k or "PATH" in k],
        "argv": sys.argv, "input": attempt(input),
    }
"""
    found = bench.eval(source)
    assert found.pop("secrets") == ["FLEET_SANDBOX"] and found.pop("argv") == ["fleet"]
    assert found.pop("input") == "EOFError"
    assert all(isinstance(value, str) and value.endswith(("Error", "gaierror")) for value in found.values()), found


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os\ndef f(): os._exit(7)", "os._exit"),
        ("import os\ndef f(): os.abort()", "the sandbox ended"),
        ("import sys\ndef f(n=0):\n  sys.setrecursionlimit(10**6)\n  return f(n + 1)", "the sandbox ended"),
    ],
)
def test_a_function_that_ends_its_sandbox_is_a_trap(bench: Bench, source: str, words: str) -> None:
    program = bench.load(source)
    with pytest.raises(SandboxTrap, match=words):
        bench.run(program)
    assert bench.eval("def f(): return 'next'") == "next"


def test_an_error_of_the_host_ends_the_run_and_comes_out_as_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_lines: list[LogLine], _position: int | None) -> None:
        raise BrokenPipeError("the agent is gone")

    program = bench.load("def f(): print('x')")
    monkeypatch.setattr(bench.desk, "log", gone)
    with pytest.raises(BrokenPipeError, match="the agent is gone"):
        bench.run(program)
    assert bench.eval("def f(): return 1") == 1


def test_what_a_hostile_guest_says_is_refused(bench: Bench) -> None:
    tell = """
from wit_world.imports import host
def f(what, number, address, size): return host.tell(what, number, address, size)
"""
    for words in ((2, 0, 0, 1 << 31), (3, 0, 0, 1 << 30), (1, 7, 0, 0), (2, 5, 0, 4), (9, 0, 0, 1), (3, 0, 1024, 5)):
        program = bench.load(tell)
        with pytest.raises(SandboxTrap):
            bench.run(program, *words)
    assert bench.eval("def f(): return 1") == 1


def test_memory_is_bounded_and_the_instance_survives(bench: Bench) -> None:
    source = """
def f(mode):
    if mode == "one": return len(bytes(1 << 30))
    if mode == "many":
        kept = []
        while True: kept.append(bytes(10_000_000))
    if mode == "small":
        kept = []
        while True: kept.append([0] * 10)
    return "fine"
"""
    program = bench.load(source, memory_bytes=96 * MIB)
    for mode in ("one", "many", "small"):
        assert bench.raised(program, mode).type_name == "MemoryError"
        assert bench.value(program, "none") == "fine"
    assert bench.run(program, "none").memory_bytes <= 96 * MIB


def test_a_damaged_bundle_is_told_from_a_faulty_function(bench: Bench) -> None:
    program = SlotProgram("damaged", "__main__", "f", 256 * MIB)
    with pytest.raises(BundleDamaged, match="BadZipFile"):
        bench.sandbox.load(program, b"no zip at all")
    assert bench.eval("def f(): return 1") == 1


@pytest.mark.parametrize("window", [True, False])
def test_large_payloads_arrive_whole(guest_image: GuestImage, monkeypatch: pytest.MonkeyPatch, window: bool) -> None:
    monkeypatch.setattr(Window, "supported", staticmethod(lambda: window) if not window else Window.supported)
    bench = Bench(guest_image)
    program = bench.load("def f(b): return b[::-1]")
    for size in (0, 1, 65_000, 65_536, 200_001, 3_000_000, 10):
        data = (bytes(range(256)) * (size // 256 + 1))[:size]
        assert bench.value(program, data) == data[::-1]
    assert bench.chunk(bench.load("def f(n): return n"), list(range(300))) == list(range(300))
    bench.eval("def f(): print('printed')")
    assert bench.desk.lines == [(None, 1, "printed")]


def test_views_are_taken_as_arguments(bench: Bench) -> None:
    program = bench.load("def f(b): return len(b)")
    pickled = pickle.dumps(((bytes(200_000),), {}))
    for args in (memoryview(pickled), bytearray(pickled), memoryview(bytearray(pickled))):
        assert codec.decode(bench.sandbox.run(SlotJob(1, program, args)).result[1:]) == 200_000


def test_nan_has_one_bit_pattern(bench: Bench) -> None:
    found = bench.eval("import math\ndef f(): return [math.inf - math.inf, float('nan') * -1, 0.0 * math.inf]")
    assert all(math.isnan(value) for value in found)


@pytest.mark.alone
@pytest.mark.benchmark
def test_what_it_costs(bench: Bench) -> None:
    """Loose bounds; the figures in the docstring of ``wasm.py`` come from here."""
    program = bench.load("def f(x): return x")
    bench.value(program, 1)
    calls = []
    for _ in range(500):
        start = time.perf_counter()
        bench.run(program, 1)
        calls.append(time.perf_counter() - start)
    start = time.perf_counter()
    bench.chunk(program, list(range(4000)))
    item_s = (time.perf_counter() - start) / 4000
    data = bytes(MIB)
    both = []
    for _ in range(5):
        start = time.perf_counter()
        bench.value(program, data)
        both.append(time.perf_counter() - start)
    print(f"call {statistics.median(calls) * 1e6:.0f} us, item {item_s * 1e6:.1f} us, 1 MiB {min(both) * 1e3:.2f} ms")
    assert statistics.median(calls) < 500e-6 and item_s < 60e-6 and min(both) < 20e-3
