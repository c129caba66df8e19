"""``params=``: loaded once, left out of the call signature, described and cut into pieces that are the same every time."""

from __future__ import annotations

import gc
import hashlib
import inspect
import math
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import fleet
from fleet import _params
from fleet._jax import params
from fleet._jax.params import Params, weights_of
from fleet._register import signature_text
from fleet.protocol import limits
from fleet.protocol.errors import DeployError, FleetError, InvalidOption, PayloadTooLarge, WrongArguments
from fleet.protocol.safetensors import ALIGN_BYTES, DTYPES, read_head

KIB = 1024


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 64 KiB, leaves cut above 128 KiB."""
    monkeypatch.setattr(params, "PIECE_BYTES", 64 * KIB)
    monkeypatch.setattr(params, "LEAF_BYTES_MAX", 128 * KIB)


def tree() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "layers": [
            {"kernel": rng.standard_normal((100, 51)).astype(np.float32), "bias": np.arange(51, dtype=np.float16)}
            for _ in range(5)
        ],
        "embedding": jnp.asarray(rng.standard_normal((1, 70_001)), jnp.bfloat16),
        "scale": np.float32(2),
        "none": None,
    }


def rebuilt(given: Params) -> list[np.ndarray[Any, Any]]:
    """The leaves, from the bytes of all pieces alone."""
    parts: dict[int, list[tuple[int, np.ndarray[Any, Any]]]] = {}
    for piece in given.pieces:
        data = given.read(piece.digest)
        for tensor in read_head(data):
            array = np.frombuffer(data, jnp.dtype(tensor.dtype), math.prod(tensor.shape), tensor.start)
            parts.setdefault(tensor.leaf, []).append((tensor.part or 0, array))
    joined = [np.concatenate([one for _, one in sorted(parts[leaf], key=lambda one: one[0])]) for leaf in sorted(parts)]
    return [one.reshape(shape) for one, (_, shape) in zip(joined, given.specs, strict=True)]


# --- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_pieces_hold_every_leaf_aligned_and_under_the_limit() -> None:
    given = weights_of(tree())
    assert len(given.pieces) > 3 and given.size_bytes == sum(piece.size_bytes for piece in given.pieces)
    for leaf, back in zip(given.leaves, rebuilt(given), strict=True):
        assert back.dtype == leaf.dtype and np.array_equal(back, np.asarray(leaf))
    cut = 0
    for piece in given.pieces:
        data = given.read(piece.digest)
        tensors = read_head(data)
        assert len(data) == piece.size_bytes and hashlib.sha256(data).hexdigest() == piece.digest
        assert len(tensors) == 1 or sum(tensor.size_bytes for tensor in tensors) <= 64 * KIB
        assert all(tensor.start % ALIGN_BYTES == 0 for tensor in tensors)
        cut += any(tensor.part is not None for tensor in tensors)
    assert cut == 3, "140 kB of one leaf"


def test_others_read_them_too() -> None:
    given = weights_of([np.arange(6, dtype=np.int16).reshape(2, 3), np.float64(3), np.array([True])])
    found = safetensors.numpy.load(bytes(given.read(given.pieces[0].digest)))
    assert found["0"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["1"] == 3 and found["2"].tolist() == [True]


def test_every_dtype_that_is_named_travels() -> None:
    with jax.enable_x64(True):
        given = weights_of([np.ones(3, jnp.dtype(dtype)) for dtype in DTYPES])
    assert [dtype for dtype, _ in given.specs] == list(DTYPES)
    for back in rebuilt(given):
        assert np.array_equal(back, np.ones(3, back.dtype)) and back.dtype.itemsize == DTYPES[back.dtype.name]


def test_the_same_weights_have_the_same_digests_everywhere() -> None:
    plain = {"a": np.arange(1000, dtype=np.float32).reshape(10, 100), "b": jnp.arange(7, dtype=jnp.bfloat16)}
    (piece,) = weights_of(plain).pieces
    # Written down: what was deployed yesterday from another machine must not be sent again.
    assert piece.digest == "0f13d7ef8f980b32c5a7fe04f5dbd3c70780f98ebd4e129c4bff281dc52b9c7f"
    transposed = np.asfortranarray(tree()["layers"][0]["kernel"])
    assert weights_of([transposed]).pieces == weights_of([np.ascontiguousarray(transposed)]).pieces
    assert weights_of([transposed.astype(">f4")]).pieces == weights_of([jnp.asarray(transposed)]).pieces


def test_hashed_once_and_forgotten_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = params._digest
    monkeypatch.setattr(params, "_digest", lambda *args: (hashed.append(1), real(*args))[1])
    leaf = np.arange(100, dtype=np.float32)
    first, second = weights_of([leaf]), weights_of({"other": leaf})
    assert len(hashed) == 1 and first.pieces == second.pieces
    gone = weakref.ref(leaf)
    del leaf, first, second
    gc.collect()
    assert gone() is None, "what was hashed keeps no weights in memory"
    weights_of([np.arange(100, dtype=np.float32) + 1])
    assert len(hashed) == 2


def test_sixty_four_bits_only_with_x64() -> None:
    leaves = [np.array([1.5, 2.5]), np.array([1, 2])]
    assert [dtype for dtype, _ in weights_of(leaves).specs] == ["float32", "int32"]
    assert rebuilt(weights_of(leaves))[0].tolist() == [1.5, 2.5]
    with jax.enable_x64(True):
        assert [dtype for dtype, _ in weights_of(leaves).specs] == ["float64", "int64"]


def test_weights_that_were_changed_are_not_sent() -> None:
    leaf = np.zeros(10, np.float32)
    given = weights_of([leaf])
    leaf[3] = 1
    with pytest.raises(DeployError, match="were changed"):
        given.read(given.pieces[0].digest)


# --- refusals --------------------------------------------------------------------------------------------------------


class Huge(np.ndarray[Any, Any]):
    """Says that it is larger than it is."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 << 31,)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"a": {"b": 1.5}}, DeployError, r"params=\['a'\]\['b'\] is no array but float"),
        ([np.zeros(3), "text"], DeployError, r"params=\[1\] is no array but str"),
        ([np.array(["text"])], DeployError, "dtype"),
        ([np.zeros(3, np.complex128)], None, ""),
        ([jax.random.key(0)], DeployError, "dtype key"),
        ([jnp.zeros(3, jnp.int4)], DeployError, "dtype int4"),
        ({}, DeployError, "no arrays"),
        ([np.zeros(1).view(Huge)], PayloadTooLarge, "allowed is 4 GiB"),
        ([np.float32(1)] * (limits.JAX_LEAVES_MAX + 1), PayloadTooLarge, "4097 arrays"),
    ],
)
def test_what_weights_cannot_be(given: Any, error: type[FleetError] | None, words: str) -> None:
    if error is None:
        assert weights_of(given).specs[0][0] == "complex64"
        return
    with pytest.raises(error, match=words) as told:
        weights_of(given)
    assert told.value.hint


def test_memory_must_hold_them() -> None:
    leaf = np.zeros((300, limits.MIB // 4), np.float32)
    with pytest.raises(InvalidOption, match="300 MiB, which memory=256 MiB") as told:
        weights_of([leaf], 256 * limits.MIB)
    assert told.value.hint == 'set memory="556MiB" or more'


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_loader_is_called_once_and_its_failure_names_it() -> None:
    calls: list[int] = []

    def load() -> list[Any]:
        calls.append(1)
        return [np.ones(2, np.float32)]

    assert not calls
    assert weights_of(load).leaves[0] is params.load(load)[0] and calls == [1]
    leaf = weakref.ref(params.load(load)[0])
    del load
    gc.collect()
    assert leaf() is None, "what a loader gave goes with it"

    def broken() -> None:
        raise FileNotFoundError("weights.npz")

    for _ in range(2):
        with pytest.raises(DeployError, match=r"params=.*broken could not load the weights: FileNotFoundError") as told:
            params.load(broken)
        assert isinstance(told.value.__cause__, FileNotFoundError)


@jax.tree_util.register_pytree_node_class
class Module:
    """As some libraries have them: a pytree that can be called."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __call__(self, x: Any) -> Any:
        return x @ self.kernel

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        return (self.kernel,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[Any]) -> Module:
        return cls(*leaves)


def test_a_tree_that_can_be_called_is_a_tree() -> None:
    module = Module(np.eye(2, dtype=np.float32))
    assert params.load(module) is module and weights_of(module).specs == [("float32", (2, 2))]


# --- calls here ------------------------------------------------------------------------------------------------------

WEIGHTS = {"scale": np.float32(3)}


@fleet.function(runtime="jax", params=WEIGHTS)
def in_front(model: Any, x: float, y: float = 1.0) -> float:
    return float(model["scale"] * x + y)


@fleet.function(runtime="jax", params=lambda: WEIGHTS)
def by_name(x: float, params: Any, y: float = 1.0) -> float:
    return float(params["scale"] * x + y)


@fleet.function(runtime="jax", params=WEIGHTS)
def by_keyword(x: float, *, params: Any, y: float = 1.0) -> float:
    return float(params["scale"] * x + y)


ALL: list[Any] = [in_front, by_name, by_keyword]


@pytest.mark.parametrize("function", ALL)
def test_weights_are_put_in_where_a_call_has_none(function: Any) -> None:
    assert function.params is WEIGHTS
    assert function(2.0) == function.local(x=2.0) == function(2.0, y=1.0) == 7.0
    function.check_arguments((2.0,), {"y": 3.0})
    for args, kwargs in (((), {}), ((1.0, 2.0, 3.0, 4.0), {}), ((1.0,), {"params": WEIGHTS}), ((1.0,), {"model": 1})):
        with pytest.raises(WrongArguments, match=r"hint: its signature is .*x: "):
            function.check_arguments(args, kwargs)
    assert list(inspect.signature(function).parameters) == ["x", "y"]
    assert signature_text(function).startswith("(x: float, ") and "Any" not in signature_text(function)


def test_other_weights_are_another_function() -> None:
    other = in_front.with_options(params={"scale": np.float32(5)})
    assert (other(1.0), in_front(1.0)) == (6.0, 4.0)
    with pytest.raises(InvalidOption, match="has no params="):
        _ = fleet.function(runtime="jax")(math.sin).params


def nothing() -> int:
    return 1


def only_rest(*rest: Any, **more: Any) -> int:
    return len(rest) + len(more)


@pytest.mark.parametrize("raw", [nothing, only_rest, lambda: 2])
def test_a_function_needs_a_place_for_them(raw: Callable[..., Any]) -> None:
    with pytest.raises(InvalidOption, match="no parameter that takes the weights"):
        fleet.function(runtime="jax", params=WEIGHTS)(raw)


def test_injected_arguments_are_those_of_a_whole_call() -> None:
    def raw(a: int, /, params: Any, b: int, *rest: int, c: int = 0) -> Any:
        return a, params, b, rest, c

    for args, kwargs in (((1, 2, 3, 4), {"c": 5}), ((1,), {"b": 2})):
        given, named = _params.inject(raw, "w", args, kwargs)
        assert raw(*given, **named)[:3] == (1, "w", 2)
