"""Pytrees as JSON and back, whatever they are made of; deployed functions without their source."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fleet
from fleet._jax import trees
from fleet._jax.named import NamedPickler
from fleet._jax.refs import of_value
from fleet._put import put_again
from fleet._register import bind_named
from fleet.protocol import codec
from fleet.protocol.errors import DeployError, ProtocolError, WrongArguments
from fleet.protocol.messages import ArraySpec, FunctionInfo, JaxProgram, Manifest, Program
from tests.unit.jax_rig import built, inputs_of

KEYS = st.one_of(st.text(max_size=3), st.integers(-5, 5))
TREES: Any = st.recursive(
    st.one_of(st.none(), st.integers(0, 9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.dictionaries(st.integers(-5, 5), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_a_result_comes_back_from_its_tree(value: Any) -> None:
    flat: list[Any] = []

    def leaf(one: Any) -> int:
        flat.append(one)
        return len(flat) - 1

    tree = json.loads(json.dumps(trees.describe(value, leaf)))
    assert flat == jax.tree.leaves(value), "leaves are in jax' order"
    made = built(tree, [np.int32(one) for one in flat])
    found = trees.leaves_of(tree, made)
    assert jax.tree.unflatten(jax.tree.structure(value), found) == value


@pytest.mark.parametrize(
    ("tree", "value"),
    [
        ({"list": [0, 1]}, [1]),
        ({"list": [0]}, (1,)),
        ({"tuple": [0]}, [1]),
        ({"dict": [["a", 0]]}, {"b": 1}),
        ({"dict": [["a", 0]]}, [1]),
        (None, 1),
    ],
)
def test_a_result_of_another_shape_is_refused(tree: Any, value: Any) -> None:
    with pytest.raises(ProtocolError):
        trees.leaves_of(tree, value)


def pickler(signature: str, arguments: Any, *inputs: tuple[str, list[int | str]]) -> NamedPickler:
    return NamedPickler(manifest(signature, arguments, *inputs))


def manifest(signature: str, arguments: Any, *inputs: tuple[str, list[int | str]]) -> Manifest:
    specs = [ArraySpec(dtype=dtype, shape=shape) for dtype, shape in inputs]
    program = JaxProgram(inputs=specs, arguments=json.dumps(arguments))
    bare = Program(runtime="jax", bundle="0" * 64, bundle_bytes=1, module="", qualname="f", jax=program)
    return Manifest(app="a", function="f", display_name="f", program=bare, signature=signature)


ROWS = [["x", {"dict": [["a", 0], ["b", {"tuple": [1, None]}]]}], ["k", 2, 2.5], ["mode", {"static": "'up'"}]]
SPECS: list[tuple[str, list[int | str]]] = [("float32", ["b", 3]), ("bfloat16", ["2*b"]), ("float32", [])]


def by_name(*args: Any, **kwargs: Any) -> list[Any]:
    return inputs_of(pickler("(x, k=2.5, mode='up', other=1)", ROWS, *SPECS).dumps(args, kwargs))


def test_arguments_are_packed_by_what_a_manifest_says() -> None:
    half = np.ones(4, ml_dtypes.bfloat16)
    a, b, k = by_name({"a": np.ones((2, 3)), "b": (half, None)})
    assert (
        (a.dtype, b.dtype, k.dtype) == (np.float32, ml_dtypes.bfloat16, np.float32) and k == 2.5 and a.shape == (2, 3)
    )
    assert by_name({"a": [[1, 2, 3]], "b": [[1, 2.5], None]}, 3, mode="up")[2] == 3
    put = of_value([np.ones((2, 3)), half])
    assert put is not None
    single = pickler("(x)", [["x", {"list": [0, 1]}]], *SPECS[:2])
    assert [one.shape for one in inputs_of(single.dumps((put[1],), {}))] == [(2, 3), (4,)]


def test_a_large_value_that_was_put_as_a_pickle_travels_by_digest_by_name_too() -> None:
    one = pickler("(x)", [["x", 0]], ("float32", ["n"]))
    pickled: fleet.Ref[Any] = fleet.Ref("0" * 64, 5, [0.5] * 20_000)
    packed: Any = one.dumps((pickled,), {})
    (ref,) = packed.refs.values()
    assert len(packed) < 300 and ref.digest != pickled.digest and inputs_of(packed)[0].shape == (20_000,)
    assert hashlib.sha256(put_again(ref)).hexdigest() == ref.digest, "where the platform no longer has it"
    assert not hasattr(one.dumps((fleet.Ref("1" * 64, 5, [0.5]),), {}), "refs"), "small ones go with the call"


GOOD: dict[str, Any] = {"a": np.ones((2, 3)), "b": (np.ones(4, ml_dtypes.bfloat16), None)}


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing a required argument: 'x'"),
        (({**GOOD, "a": np.ones((2, 4))},), {}, "x['a'] has shape (2, 4), its program takes (b, 3)"),
        (({**GOOD, "b": (np.ones(5, ml_dtypes.bfloat16), None)},), {}, "2*b is 4 here, not 5"),
        (({**GOOD, "a": np.ones((2, 3), int)},), {}, "x['a'] has to be float32 (b, 3), not int64 (2, 3)"),
        (({**GOOD, "a": "text"},), {}, "x['a'] has to be float32 (b, 3), not 'text'"),
        (({**GOOD, "a": [[1], [2, 3]]},), {}, "x['a'] has to be float32 (b, 3)"),
        (({"a": 1},), {}, "x has to be a dict with the keys 'a', 'b'"),
        (({**GOOD, "b": [1]},), {}, "x['b'] has to be a tuple of 2"),
        ((GOOD, 1j), {}, "k has to be one float32, not 1j"),
        ((GOOD,), {"mode": "down"}, "mode is fixed to 'up' in the deployed program, not 'down'"),
        ((GOOD,), {"other": 2}, "other is fixed in the deployed program"),
        (({"a": np.ones((0, 3)), "b": (np.ones(0, ml_dtypes.bfloat16), None)},), {}, "b is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_they_are_sent(args: Any, kwargs: Any, said: str) -> None:
    with pytest.raises(WrongArguments) as caught:
        by_name(*args, **kwargs)
    assert said in caught.value.message, caught.value.message


def test_calls_by_name_need_no_jax() -> None:
    code = (
        "import sys; import fleet._jax.named; print([m for m in ('jax', 'jaxlib', 'flatbuffers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(("lacks", "said"), [("numpy", ", and numpy"), ("ml_dtypes", "of bfloat16, and ml_dtypes")])
def test_what_a_call_by_name_lacks_here_is_said(lacks: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FunctionInfo(manifest=manifest("(x)", [["x", 0]], ("bfloat16", ["n"])), version="0" * 16)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacks else real(name))
    with pytest.raises(DeployError, match=rf"a\.f takes or returns arrays.*{said} is not installed here"):
        bind_named(None, fleet.Function.from_name("a", "f"), found)


NAMES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "int4", "uint2")


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_machine_learning_travel(name: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(getattr(ml_dtypes, name))
    for one in (array, array.T, array[0, 0], array[:0], array[1:, 1].reshape(()), np.asarray(jnp.asarray(array))):
        back = codec.decode(codec.encode(one))
        assert type(back) is type(one) and back.dtype == one.dtype and back.tolist() == one.tolist()


def test_no_dtype_is_looked_up_that_is_not_on_the_list() -> None:
    data = codec.encode(np.ones(1, ml_dtypes.bfloat16))
    for name in (b"finfo\xa0\xa0\xa0", b"complex1", b"iinfo111"):
        with pytest.raises(ProtocolError):
            codec.decode(data.replace(b"bfloat16", name))
