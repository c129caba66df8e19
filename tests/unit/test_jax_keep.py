"""``fleet.keep`` on the developer's side: marks while a function is traced, references in results, values in local calls."""

from __future__ import annotations

import pickle
from typing import Any, TypedDict

import jax
import numpy as np
import pytest
from jaxtyping import Array, Float, Int

import fleet
from fleet._jax import program
from fleet._jax.kept_refs import with_refs
from fleet._jax.named import NamedPickler
from fleet.protocol import codec
from fleet.protocol.errors import DeployError, ProtocolError, WrongArguments
from fleet.protocol.messages import Manifest, Program
from tests.unit.jax_rig import payload, programs

app = fleet.App("keep")
DIGEST = "a" * 64
RECORD = {"ref": DIGEST, "bytes": 99, "arrays": [["float32", [3]], ["int32", []]]}
X = np.ones(3, np.float32)
STATE = {"n": np.int32(0), "a": np.zeros(3, np.float32)}


@app.function(runtime="jax")
@jax.jit  # its cache outlives the calls: one that was traced for a car must not show in a local one
def step(state: Any, x: Any) -> Any:
    return x.sum(), fleet.keep({"a": state["a"] + x, "n": state["n"] + 1})


class State(TypedDict):
    """What ``known`` takes."""

    a: Float[Array, "3"]  # noqa: UP037
    n: Int[Array, ""]


def known(state: State, x: Any) -> Any:
    return state["a"] + x


def unknown(state: Any, x: Any) -> Any:
    return state["a"] + x


def traced() -> program.Traced:
    return program.describe(step, (STATE, X), {})


def test_the_mark_is_in_the_tree_and_never_in_a_local_result() -> None:
    for _ in range(2):
        total, state = step(STATE, X)
        assert float(total) == 3 and sorted(state) == ["a", "n"] and state["a"].tolist() == [1, 1, 1]
        assert traced()._result.tree == {"tuple": [0, {"keep": {"dict": [["a", 1], ["n", 2]]}}]}
    assert fleet.keep(STATE) is STATE


def test_what_was_kept_comes_as_a_reference_that_another_call_takes() -> None:
    _, ref = traced().unpack((np.float32([3.0]).reshape(()), RECORD))
    assert isinstance(ref, fleet.Ref) and (ref.digest, ref.size_bytes) == (DIGEST, 99)
    for one in (ref, pickle.loads(pickle.dumps(ref))):
        programs = program.programs_of(step)
        call = program.programs_of(step).signature.call((one, X), {}, False)
        assert programs.trace(call) is traced()  # the same program as for the value itself
        packed = traced().pack(call)
        told, x = codec.decode(packed)
        assert told == {"ref": DIGEST, "bytes": 99, "arrays": 2} and x.tolist() == [1, 1, 1]
        assert list(packed.refs) == [DIGEST]  # type: ignore[attr-defined]


def test_its_value_is_not_here() -> None:
    _, ref = traced().unpack((np.zeros((), np.float32), RECORD))
    for look in (lambda: ref.value, lambda: step(ref, X)):
        with pytest.raises(WrongArguments, match="stayed on a car's device") as caught:
            look()
        assert "without fleet.keep" in caught.value.hint


@pytest.mark.parametrize(
    "record",
    [
        7, {}, {**RECORD, "ref": "x"}, {**RECORD, "arrays": []}, {**RECORD, "arrays": [["float32", ["b"]]] * 2},
        {**RECORD, "arrays": [["object", []]] * 2}, {**RECORD, "bytes": -1}, np.zeros(3),
    ],
)  # fmt: skip
def test_nonsense_in_its_place_is_refused(record: Any) -> None:
    with pytest.raises(ProtocolError):
        traced().unpack((np.zeros((), np.float32), record))


def test_what_cannot_be_kept_is_said_when_it_is_traced() -> None:
    @app.function(runtime="jax")
    def key(seed: Any) -> Any:
        return fleet.keep({"key": jax.random.key(seed)})

    with pytest.raises(DeployError, match="typed random keys"):
        program.describe(key, (3,), {})

    @app.function(runtime="jax")
    def many(x: Any) -> Any:
        return [fleet.keep(x + n) for n in range(17)]

    with pytest.raises(DeployError, match="more than 16"):
        program.describe(many, (X,), {})

    @app.function(runtime="jax", batch=fleet.Batch(max_size=4))
    def batched(x: Any) -> Any:
        return fleet.keep(x)

    with pytest.raises(DeployError, match=r"fleet\.keep would keep"):
        program.describe(batched, (X,), {})


def test_a_function_found_by_name_gives_and_takes_references_without_its_tree() -> None:
    described = traced().jax_program
    wanted = Program(runtime="jax", bundle=DIGEST, bundle_bytes=1, module="m", qualname="step", jax=described)
    named = NamedPickler(Manifest(app="keep", function="step", display_name="step", program=wanted))
    array = np.zeros((), np.float32)
    total, (ref, nothing) = with_refs((array, [RECORD, None]))
    assert total is array and nothing is None and isinstance(ref, fleet.Ref)
    for one in (ref, pickle.loads(pickle.dumps(ref))):
        packed = named.dumps((one, X), {})
        assert codec.decode(packed)[0] == {"ref": DIGEST, "bytes": 99, "arrays": 2}
        assert list(packed.refs) == [DIGEST]  # type: ignore[attr-defined]
    with pytest.raises(WrongArguments, match="stayed on a car's device"):
        _ = ref.value

    packed = payload(programs(known), ref, X)  # traced here: its annotation tells the containers
    assert codec.decode(packed)[0] == {"ref": DIGEST, "bytes": 99, "arrays": 2}
    with pytest.raises(WrongArguments, match="containers aren't known here"):
        payload(programs(unknown), ref, X)
    single = with_refs({**RECORD, "arrays": [["float32", [3]]]})
    assert codec.decode(payload(programs(lambda x: x * 2), single))[0]["arrays"] == 1
    with pytest.raises(ProtocolError):
        with_refs([{**RECORD, "ref": "x"}])
