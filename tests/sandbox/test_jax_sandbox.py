"""Programs of the jax lane in a sandbox of this process: what goes in, what comes out, and what is said when it can't."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fleet.protocol import codec, frames, jax_bundle, limits
from fleet.protocol.errors import ProtocolError, SandboxTrap
from runtime.sandbox import jax as sandbox_module
from runtime.sandbox import jax_execute
from runtime.sandbox.jax import JaxSandbox
from runtime.sandbox.jax_program import BundleDamaged
from runtime.slot_wire import SlotJob
from tests.sandbox.jax_programs import Desk, arguments, bundle, program, started

F4 = np.float32


class Bench:
    """One sandbox and its desk."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.sandbox = JaxSandbox(self.desk, started())
        self._number = 0

    def result(
        self, code: bytes, *arrays: Any, key: str = "", refs: dict[str, bytes] | None = None, **options: Any
    ) -> Any:
        """(status, what was decoded, summary)"""
        self._number += 1
        which = program(key or str(hash(code)), **options)
        self.sandbox.load(which, code)
        ran = self.sandbox.run(SlotJob(self._number, which, arguments(*arrays), refs=refs or {}))
        decode = codec.decode if ran.result[0] == 0 else codec.decode_exception
        return ran.result[0], decode(ran.result[1:]), ran.summary

    def value(self, code: bytes, *arrays: Any, **options: Any) -> Any:
        status, found, summary = self.result(code, *arrays, **options)
        assert status == 0, summary
        return found

    def raised(self, code: bytes, *arrays: Any, **options: Any) -> codec.ExceptionData:
        status, found, summary = self.result(code, *arrays, **options)
        assert status == 1 and summary == found.summary
        assert isinstance(found, codec.ExceptionData)
        assert found.traceback == "", "nothing of the car's own code is shown"
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


ADD = bundle(lambda x, y: [x + y], ("float32", ("b", 3)), ("float32", ("b", 3)))


def test_a_result_has_the_shape_that_its_tree_says(bench: Bench) -> None:
    tree = {
        "dict": [
            ["a", {"tuple": [0, None]}],
            ["b", {"list": [{"node": [1]}, 0]}],
            [3, {"dict": []}],
        ]
    }
    code = bundle(lambda x: [x, x.sum()], ("float32", (2,)), result=tree)
    found = bench.value(code, np.ones(2, F4))
    assert list(found) == ["a", "b", 3] and type(found["a"]) is tuple and found["a"][1] is None and found[3] == {}
    assert found["b"][0] == [2.0] and found["b"][1].tolist() == [1, 1] and found["a"][0].dtype == F4


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint32", "float16", "bfloat16", "float32", "complex64", "float8_e4m3fn"]
)
def test_dtypes_stay_what_they_are(bench: Bench, dtype: str) -> None:
    code = bundle(lambda x: [jnp.flip(x)], (dtype, (3,)), platforms=["cpu"])
    x = np.array([0, 1, 1], np.dtype(getattr(ml_dtypes, dtype, dtype)))
    found = bench.value(code, x)
    assert found.dtype == x.dtype and found.tolist() == x[::-1].tolist()


def test_double_precision_is_the_programs_own(bench: Bench) -> None:
    wide = bundle(lambda x: [x / 3], ("float64", (1,)), x64=True)
    assert bench.value(wide, np.ones(1))[0] == 1 / 3
    assert bench.value(ADD, np.ones((1, 3), F4), np.ones((1, 3), F4)).dtype == F4, "and not the next one's"
    assert "has to be float64[1], it is float32[1]" in bench.raised(wide, np.ones(1, F4)).message


def test_what_is_not_a_number_passes(bench: Bench) -> None:
    found = bench.value(bundle(lambda x: [1 / x], ("float32", (3,))), np.array([0, -0.0, np.nan], F4))
    assert found[0] == np.inf and found[1] == -np.inf and np.isnan(found[2])


@pytest.mark.parametrize(
    ("arrays", "kind", "said"),
    [
        ((np.ones((2, 3), F4),), "TypeError", "takes 2 arrays, it got 1"),
        ((np.ones((2, 3), F4), np.ones((2, 3))), "TypeError", "array 1 has to be float32[b,3], it is float64[2,3]"),
        ((np.ones((2, 3), F4), np.ones(3, F4)), "TypeError", "array 1 has to be float32[b,3], it is float32[3]"),
        (
            (np.ones((2, 4), F4), np.ones((2, 4), F4)),
            "ValueError",
            "array 0 has to be float32[b,3], it is float32[2,4]",
        ),
        ((np.ones((2, 3), F4), np.ones((5, 3), F4)), "ValueError", "float32[5,3], where b is 2 elsewhere"),
        ((np.ones((2, 3), F4), {"ref": "ab", "bytes": 1, "arrays": 1}), "LookupError", "the value ab"),
        ((np.ones((2, 3), F4), {"ref": 7}), "LookupError", "the value 7"),
    ],
)
def test_arguments_that_do_not_fit_say_so(bench: Bench, arrays: tuple[Any, ...], kind: str, said: str) -> None:
    told = bench.raised(ADD, *arrays)
    assert told.qualname == kind and said in told.message, told
    assert not bench.desk.asked, "nothing was compiled"


def test_compiling_is_no_part_of_the_time_that_a_call_ran(bench: Bench) -> None:
    which, data = program("add"), arguments(np.ones((7, 3), F4), np.ones((7, 3), F4))
    bench.sandbox.load(which, ADD)
    begun_s = time.monotonic()
    ran = bench.sandbox.run(SlotJob(1, which, data))
    taken_s = time.monotonic() - begun_s
    assert bench.desk.asked and 0 < ran.run_s < taken_s / 4, (ran.run_s, taken_s)


def test_bytes_that_are_no_arguments_are_an_error_of_the_call(bench: Bench) -> None:
    which = program("add")
    bench.sandbox.load(which, ADD)
    for data in (b"", b"\xff", codec.encode({"a": 1}), codec.encode([1, 2]), codec.encode(["a", "b"])):
        ran = bench.sandbox.run(SlotJob(1, which, data))
        assert ran.result[0] == 1 and ran.summary.startswith("ValueError: the arguments")


def test_sizes_that_contradict_each_other_are_told_by_jax(bench: Bench) -> None:
    code = bundle(lambda x, y: [x.sum() + y.sum()], ("float32", ("2*b",)), ("float32", ("b",)))
    assert bench.value(code, np.ones(4, F4), np.ones(2, F4)) == 6
    assert bench.raised(code, np.ones(5, F4), np.ones(2, F4)).qualname == "ValueError"


def test_a_reference_stands_for_arrays(bench: Bench) -> None:
    refs = {"d1": codec.encode([np.ones((1, 3), F4), np.full((1, 3), 2, F4)])}
    reference = {"ref": "d1", "bytes": 1, "arrays": 2}
    assert bench.value(ADD, reference, refs=refs).tolist() == [[3, 3, 3]]
    nested = {"d2": codec.encode([np.ones((1, 3), F4), reference])}
    assert bench.raised(ADD, {**reference, "ref": "d2"}, refs=nested | refs).qualname in ("TypeError", "ValueError")


def chunk(*items: bytes, key: str = "add", **options: Any) -> SlotJob:
    return SlotJob(1, program(key), frames.pack_items(items), items=len(items), **options)


def test_items_of_a_chunk_fail_apart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = arguments(np.ones((1, 3), F4), np.ones((1, 3), F4)), arguments(np.ones(1, F4))
    bench.sandbox.load(program("add"), ADD)
    bench.value(ADD, np.ones((1, 3), F4), np.ones((1, 3), F4), key="add")
    ran = bench.sandbox.run(chunk(good, bad, b"", good, exact=True))
    parts = [*(part for _, part in bench.desk.told), ran.result]
    assert [item[0] for part in parts for item in frames.unpack_items(part, 4)] == [0, 1, 1, 0]
    bench.desk.told.clear()
    assert bench.desk.began == [0, 1, 2, 3] and ran.first == 0 and ran.summary.startswith("ValueError")
    monkeypatch.setattr(sandbox_module, "FLUSH_BYTES", 0)
    ran = bench.sandbox.run(chunk(good, good, good))
    assert [first for first, _ in bench.desk.told] == [0, 1, 2] and ran.first == 3
    assert frames.unpack_items(ran.result, 1) == [] and len(bench.desk.began) >= 5, "short items needn't be reported"


def test_a_chunk_that_does_not_add_up_ends_the_sandbox(bench: Bench) -> None:
    bench.sandbox.load(program("add"), ADD)
    whole = frames.pack_items([b"a", b"b"])
    for data, count in ((whole, 3), (whole[:-1], 2), (b"", 0), (b"\xff\xff\xff\xff", 2)):
        with pytest.raises(SandboxTrap):
            bench.sandbox.run(SlotJob(1, program("add"), data, items=count))


def test_memory_is_compared_before_it_runs(bench: Bench) -> None:
    code = bundle(lambda x: [jnp.sort(jnp.outer(x, x), axis=0)[0]], ("float32", (4096,)))
    told = bench.raised(code, np.ones(4096, F4), memory_bytes=64 << 20)
    assert (
        told.qualname == "MemoryError" and "its memory= is 64 MiB" in told.message and "results 16 KiB" in told.message
    )


def test_a_result_that_is_too_large_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.protocol._codec.encode.PAYLOAD_BYTES_MAX", 1 << 16)
    told = bench.raised(bundle(lambda x: [jnp.outer(x, x)], ("float32", (2100,))), np.ones(2100, F4))
    assert (told.qualname, told.code) == ("PayloadTooLarge", "payload_too_large") and "fleet.keep" in told.hint


def test_a_program_without_a_module_for_this_device_says_so(bench: Bench) -> None:
    told = bench.raised(bundle(lambda x: [x], ("float32", (1,)), platforms=["tpu"]), np.ones(1, F4))
    assert told.code == "program_refused" and "no module for cpu" in told.message


def test_a_module_that_is_not_what_its_bundle_says_is_refused(bench: Bench) -> None:
    head, modules = jax_bundle.unpack(ADD)
    for change in ({"inputs": head["inputs"][:1]}, {"outputs": [["float64", ["b", 3]]]}):
        code = jax_bundle.pack({**head, **change}, [bytes(one) for one in modules])
        assert bench.raised(code, np.ones((1, 3), F4), np.ones((1, 3), F4)).code == "program_refused"
    assert not bench.desk.asked, "nothing was compiled"


@pytest.mark.parametrize(
    "change",
    [
        {"x64": 1}, {"inputs": None}, {"inputs": [["object", []]]}, {"inputs": [["float32", [-1]]]}, {"outputs": [["float32"]]},
        {"inputs": [["float32", [1] * 33]]}, {"weights": [["float32", ["b"]]]}, {"result": 1}, {"result": {"set": []}},
        {"result": {"dict": [[[], 0]]}}, {"result": {"list": 0}}, {"inputs": [["f4", []]]}, {"inputs": [["O", []]]},
        {"outputs": [["float32", []]] * (limits.JAX_LEAVES_MAX + 1)}, {"result": True},
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_a_damaged_bundle(bench: Bench, change: dict[str, Any]) -> None:
    head, modules = jax_bundle.unpack(ADD)
    with pytest.raises(BundleDamaged):
        bench.sandbox.load(program("odd"), jax_bundle.pack({**head, **change}, [bytes(one) for one in modules]))
    deep: Any = 0
    for _ in range(100):
        deep = {"list": [deep]}
    with pytest.raises(BundleDamaged):
        bench.sandbox.load(program("odd"), jax_bundle.pack({**head, "result": deep}, [bytes(one) for one in modules]))
    assert bench.value(ADD, np.ones((1, 3), F4), np.ones((1, 3), F4), key="odd").tolist() == [[2, 2, 2]], "and again"


def test_what_was_compiled_is_used_by_the_next_sandbox(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((2, 3), F4)
    assert bench.value(ADD, x, x, key="add").sum() == 12
    assert bench.value(ADD, x[:1], x[:1], key="add").sum() == 6
    assert len(bench.desk.kept) == 2, "one for each set of shapes"
    again = Bench()
    again.desk.kept = dict(bench.desk.kept)
    monkeypatch.setattr(jax_execute, "compile_exported", pytest.fail)
    assert again.value(ADD, x, x, key="add").sum() == 12
    monkeypatch.undo()
    again = Bench()
    again.desk.kept = {key: data[:-20] for key, data in bench.desk.kept.items()}
    assert again.value(ADD, x, x, key="add").sum() == 12, "damaged: made anew"


def test_arguments_that_a_program_does_not_look_at_are_taken_all_the_same(bench: Bench) -> None:
    code = bundle(lambda x, unused, y: [y - x], ("float32", ()), ("int32", ("n",)), ("float32", ()))
    for _ in range(2):
        assert bench.value(code, F4(1), np.ones(5, np.int32), F4(3)) == 2
        bench.sandbox._loaded.clear()
        bench.sandbox._present = ""


def test_whatever_jax_makes_of_a_program_is_its_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise AttributeError("no such operation")

    monkeypatch.setattr(jax_execute, "audit_lowered", fails)
    told = bench.raised(ADD, np.ones((1, 3), F4), np.ones((1, 3), F4))
    assert told.code == "program_refused" and "AttributeError: no such operation" in told.message


def test_programs_and_shapes_used_longest_ago_are_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "PROGRAMS_MAX", 2)
    monkeypatch.setattr(sandbox_module, "COMPILED_MAX", 2)
    x = np.ones((1, 3), F4)
    for key in ("a", "b", "c"):
        bench.value(ADD, x, x, key=key)
        bench.sandbox.tidy()
    assert list(bench.sandbox._loaded) == ["b", "c"]
    for rows in (1, 2, 3):
        bench.value(ADD, np.ones((rows, 3), F4), np.ones((rows, 3), F4), key="c")
    bench.sandbox.tidy()
    assert [len(one.compiled) for one in bench.sandbox._loaded.values()] == [0, 2]
    assert bench.value(ADD, x, x, key="a").tolist() == [[2, 2, 2]]


def test_saved_programs_that_cannot_be_read_are_told_apart() -> None:
    device = jax.devices("cpu")[0]
    for data in (b"", b"\xff\xff\xff\xff", b"\2\0\0\0{}", b'\x0c\0\0\0{"kept":[0]}nonsense'):
        with pytest.raises(ProtocolError):
            jax_execute.load(data, device)
