"""Values of ``fleet.put`` inside the sandbox: unpickled once, shared, dropped."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import pytest

from fleet._ref import Ref
from fleet.protocol import codec, frames
from fleet.protocol.errors import SandboxTrap
from runtime.guest.build import GuestImage
from runtime.sandbox.window import Window
from runtime.slot_wire import SlotJob, SlotProgram
from tests.sandbox.wasm_bench import MIB, Bench

KEEPING = """
kept = []
def f(*tables):
    kept.extend(tables)
    return [next(n for n, old in enumerate(kept) if old is table) for table in tables], [len(table) for table in tables]
"""
CALLS = 3


class Values:
    """Values as a client puts them, by name."""

    def __init__(self, **values: Any) -> None:
        self.refs: dict[str, Ref[Any]] = {}
        self.data: dict[str, bytes] = {}
        for name, value in values.items():
            data = pickle.dumps(((value,), {}))
            digest = hashlib.sha256(data).hexdigest()
            self.refs[name] = Ref(digest, len(data))
            self.data[digest] = data

    def job(self, program: SlotProgram, args: Any, names: str, **more: Any) -> SlotJob:
        refs = {self.refs[name].digest: self.data[self.refs[name].digest] for name in names.split()}
        packed = args if type(args) is bytes else pickle.dumps((args, {}))
        return SlotJob(1, program, packed, call="c1", timeout_s=60.0, refs=refs, **more)


def value(bench: Bench, job: SlotJob) -> Any:
    result = bench.sandbox.run(job).result
    assert result[0] == 0, codec.decode_exception(result[1:]).traceback
    return codec.decode(result[1:])


@pytest.mark.parametrize("window", [True, False])
def test_a_value_is_unpickled_once_and_shared(
    guest_image: GuestImage, monkeypatch: pytest.MonkeyPatch, window: bool
) -> None:
    if not window:
        monkeypatch.setattr(Window, "supported", staticmethod(lambda: False))
    bench = Bench(guest_image)
    put = Values(large=bytes(3 * MIB), small=[1, 2])
    program = bench.load(KEEPING)
    large, small = put.refs["large"], put.refs["small"]
    assert value(bench, put.job(program, (large, small, large), "large small")) == ([0, 1, 0], [3 * MIB, 2, 3 * MIB])
    for _ in range(CALLS):
        assert value(bench, put.job(program, (small, large), "small large")) == ([1, 0], [2, 3 * MIB])
    items = frames.pack_items([pickle.dumps(((large,), {}))] * 5)
    result = bench.sandbox.run(put.job(program, items, "large", items=5))
    found = [codec.decode(item[1:]) for item in frames.unpack_items(result.result, 5)]
    assert found == [([0], [3 * MIB])] * 5


def test_a_fresh_sandbox_gets_its_own(bench: Bench) -> None:
    put = Values(table=[1, 2, 3])
    program = bench.load(KEEPING, isolation="call")
    job = put.job(program, (put.refs["table"],), "table")
    for _ in range(CALLS):
        assert value(bench, job) == ([0], [3])
        bench.sandbox.load(program, bench.bundle)


def test_what_no_call_uses_any_more_makes_room(bench: Bench) -> None:
    program = bench.load("def f(table): return len(table)", memory_bytes=128 * MIB)
    put = Values(**{f"v{number}": bytes([number]) * (12 * MIB) for number in range(8)})
    for name in [*put.refs, "v0"]:
        assert value(bench, put.job(program, (put.refs[name],), name)) == 12 * MIB, "192 MiB went through 128"
    both = put.job(program, (put.refs["v0"],), "v0 v7")
    assert value(bench, both) == 12 * MIB


def test_a_value_that_does_not_fit_is_an_error_of_this_call_alone(bench: Bench) -> None:
    program = bench.load("def f(table): return len(table)", memory_bytes=96 * MIB)
    put = Values(huge=bytes(200 * MIB), tight=bytes(20 * MIB))
    with pytest.raises(SandboxTrap, match="memory"):
        bench.sandbox.run(put.job(program, (put.refs["huge"],), "huge"))
    bench.sandbox.load(program, bench.bundle)
    assert value(bench, put.job(program, (put.refs["tight"],), "tight")) == 20 * MIB


def test_what_was_not_sent_along_is_an_error_of_the_call(bench: Bench) -> None:
    put = Values(table=[1])
    program = bench.load("def f(table): return len(table)")
    error = bench.raised(program, put.refs["table"])
    assert error.type_name == "LookupError" and "fleet.put" in str(error)


def test_put_at_the_top_of_a_script_is_harmless_here(bench: Bench) -> None:
    source = """
import fleet
TABLE = fleet.put([1, 2, 3])
def f(table: 'fleet.Ref[list[int]]'): return TABLE, type(table) is fleet.Ref
"""
    assert bench.eval(source, [1]) == ([1, 2, 3], False)


def test_unpickling_may_fail_again_and_again(bench: Bench) -> None:
    put = Values(odd=_Odd())
    program = bench.load("def f(table): return 1")
    for _ in range(2):
        result = bench.sandbox.run(put.job(program, (put.refs["odd"],), "odd")).result
        assert codec.decode_exception(result[1:]).type_name == "ModuleNotFoundError"


class _Odd:
    def __reduce__(self) -> Any:
        return _nowhere, ()


def _nowhere() -> None:
    raise AssertionError("a sandbox doesn't have it")
