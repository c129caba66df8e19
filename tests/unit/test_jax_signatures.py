"""Which calls share a program: annotations, first calls, constants, dtypes as jit has them."""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree, UInt8

from fleet._jax import dims
from fleet._jax.program import Programs
from fleet._jax.signatures import Call
from fleet.protocol.errors import WrongArguments
from fleet.protocol.options import Batch
from tests.unit.jax_rig import programs, remote


def called(raw: Any, *args: Any, **kwargs: Any) -> Call:
    return programs(raw).analyse(args, kwargs, False)


def shapes(call: Call) -> list[tuple[int | str, ...]]:
    return [spec.shape for spec in call.specs]


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def annotated(
    x: Float[Array, "b s"], n: Int[Array, "n 3"], y: Float[Array, "b 2*n"], z: Float[Array, ""], rest: Num[Array, "... c"],
    any_: Float[Array, "_ b"], vary: Float[Array, "#b *more 1"], i: Float[Array, " s-1"],
) -> Any:  # fmt: skip
    return x, n, y, z, rest, any_, vary, i


def test_annotations_give_names_expressions_and_what_only_the_call_knows() -> None:
    ints = np.zeros((5, 3), np.int32)
    call = called(
        annotated, zeros(2, 4), ints, zeros(2, 10), 1.5, zeros(7, 8, 9), zeros(6, 2), zeros(1, 5, 1), zeros(3)
    )
    assert shapes(call) == [
        ("b", "s"), ("n", 3), ("b", "2*n"), (), (7, 8, "c"), ("_5_0", "b"), (1, 5, 1), ("s-1",)
    ]  # fmt: skip
    assert shapes(call) != [spec.shape for spec in call.fixed]
    assert remote(programs(annotated), *call.values)[2].shape == (2, 10)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x": zeros(2)}, 'x has shape (2,), annotated Float[Array, "b s"]'),
        ({"n": np.zeros((5, 4), np.int32)}, "n has shape (5, 4), asked for (n, 3)"),
        ({"y": zeros(2, 11)}, "2*n is 10 here, not 11"),
        ({"y": zeros(3, 10)}, "b is 2 in an array before it, and 3 here"),
        ({"n": zeros(5, 3)}, 'n is float32, annotated Int[Array, "n 3"]'),
        ({"z": 1j}, 'z is 1j, annotated Float[Array, ""]'),
        ({"i": zeros(4)}, "s-1 is 3 here, not 4"),
    ],
)
def test_what_contradicts_an_annotation_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    good = {"x": zeros(2, 4), "n": np.zeros((5, 3), np.int32), "y": zeros(2, 10), "z": 1.5, "rest": zeros(1),
            "any_": zeros(6, 2), "vary": zeros(1, 1), "i": zeros(3)}  # fmt: skip
    with pytest.raises(WrongArguments) as caught:
        called(annotated, **{**good, **changed})
    assert said in caught.value.message, caught.value.message


def test_one_unknown_name_in_an_expression_is_solved() -> None:
    assert dims.sizes([("2*n+1", "n")], [(7, 3)]) == {"n": 3}
    assert dims.sizes([("2*n + 1", "m*3")], [(7, 6)]) == {"n": 3, "m": 2}
    with pytest.raises(dims.Misfit):
        dims.sizes([("2*n",)], [(7,)])
    assert dims.sizes([("max(a, b)", "a", "b")], [(4, 4, 2)]) == {"a": 4, "b": 2}
    assert dims.parse("__import__('os').x") is None and dims.parse("n**9**9") is None


def plain(x: Any, scale: Any = 2.0, *more: Any, **named: Any) -> Any:
    return x, scale, more, named


def test_without_annotations_shapes_and_dtypes_are_those_of_the_call() -> None:
    one = programs(plain)

    def key(*args: Any, **kwargs: Any) -> Any:
        return one.analyse(args, kwargs, False).key

    assert key(zeros(3)) == key(np.ones(3)) == key(jnp.ones(3)), "float64 becomes float32, as under jit"
    assert key(zeros(3)) != key(zeros(4))
    assert key(zeros(3)) != key(np.zeros(3, np.float16))
    assert key(1) == key(7) != key(1.0) != key(np.float32(1)), "Python numbers have weak dtypes"
    assert key(zeros(3)) != key(zeros(3), 2.0), "a default that isn't given is a constant"
    assert key(zeros(3), scale=1.0) == key(zeros(3), 1.0)
    assert key(zeros(3), 1.0, 2, mask=True) == key(zeros(3), 1.0, 3, mask=False)
    assert key({"a": 1, "b": [2]}) != key({"a": 1, "c": [2]})
    assert key({"a": 1, "mode": "x"}) == key({"a": 2, "mode": "x"}) != key({"a": 1, "mode": "y"})
    assert key(zeros(3)) != one.analyse((zeros(3),), {}, True).key
    assert one.analyse((np.ones(3), 2**40), {}, True).specs[0].dtype == "float64"


def test_numbers_that_do_not_fit_and_tracers_are_refused() -> None:
    with pytest.raises(WrongArguments, match="x=1099511627776 doesn't fit int32"):
        called(plain, 2**40)
    with pytest.raises(WrongArguments, match="which jax doesn't have"):
        called(plain, np.array(["a"]))
    with pytest.raises(WrongArguments, match="can't be part of a jax program"):
        jax.jit(lambda x: called(plain, x))(1.0)
    with pytest.raises(WrongArguments, match="missing a required argument: 'x'"):
        called(plain)


class Mode(enum.Enum):
    UP = 1
    DOWN = 2


def choosing(x: Any, mode: Mode, name: str, flag: bool, way: Literal["a", "b"] = "a") -> Any:
    return x * 2 if mode is Mode.UP and name == "n" and flag and way == "a" else x


@functools.partial(jax.jit, static_argnames=("times",), static_argnums=(2,))
def repeated(x: Any, times: int = 2, deep: int = 1) -> Any:
    return jnp.concatenate([x] * times * deep)


def test_constants_have_a_program_for_each_value() -> None:
    one = programs(choosing)
    assert remote(one, 3, Mode.UP, "n", True) == 6
    assert remote(one, 3, Mode.DOWN, "n", True) == 3 == remote(one, 3, Mode.UP, "n", False)
    assert remote(one, 4, Mode.UP, name="n", flag=True) == 8
    assert len(one._known) == 3
    again = programs(repeated)
    assert remote(again, zeros(2)).shape == (4,)
    assert remote(again, zeros(2), 3).shape == (6,) == remote(again, zeros(2), times=3).shape
    assert remote(again, zeros(2), 3, 2).shape == (12,)
    with pytest.raises(WrongArguments, match="times is traced as a constant, and a list can't be one"):
        again.analyse((zeros(2), [1]), {}, False)


class Pair(NamedTuple):
    a: Float[Array, " n"]
    b: Int[Array, "n 2"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    weight: Float[Any, "i o"]
    bias: Float[Any, " o"]
    act: str = dataclasses.field(default="tanh", metadata={"static": True})


def nested(
    pair: Pair, layers: list[Layer], masks: dict[str, Bool[Array, " n"]], tree: PyTree[Float[Array, " k"]]
) -> Any:
    return pair, layers, masks, tree


def test_annotations_reach_into_containers_and_classes() -> None:
    pair: Any = Pair(*(zeros(3), np.zeros((3, 2), np.int32)))  # type: ignore[arg-type]
    layers = [Layer(zeros(4, 5), zeros(5)), Layer(zeros(4, 5), zeros(5))]
    call = called(nested, pair, layers, {"x": np.zeros(3, bool)}, [zeros(2), (zeros(2),)])
    assert shapes(call) == [("n",), ("n", 2), ("i", "o"), ("o",), ("i", "o"), ("o",), ("n",), ("k",), ("k",)]
    other = called(
        nested, pair, [Layer(zeros(4, 5), zeros(5), "relu")] * 2, {"x": np.zeros(3, bool)}, [zeros(2), (zeros(2),)]
    )
    assert other.key != call.key, "what a class calls static is part of the program"
    with pytest.raises(WrongArguments, match=r"layers\[0\].bias has shape \(6,\)"):
        called(nested, pair, [Layer(zeros(4, 5), zeros(6))], {}, [])


def image(x: UInt8[Array, "h w"], y: Float[Array, " n"]) -> Any:
    return x, y


def test_lists_of_numbers_are_arrays_where_one_is_asked_for() -> None:
    call = called(image, [[1, 2], [3, 4]], [1, 2, 3])
    assert [(spec.dtype, spec.shape) for spec in call.fixed] == [("uint8", (2, 2)), ("float32", (3,))]
    x, y = remote(programs(image), [[1, 2], [3, 4]], [1, 2, 3])
    assert x.dtype == jnp.uint8 and y.tolist() == [1, 2, 3]


def test_what_is_no_array_is_refused_where_one_is_asked_for() -> None:
    def one(
        x: Float[Array, " n"], y: Float[Array, " n"] | str | None = None, z: Float[Array, " k"] | None = None
    ) -> Any:
        return x if y is None or z is None else x * 2

    for bad in (range(3), object(), "text", [[1.0], [1.0, 2.0]], {"a": 1.0}):
        with pytest.raises(WrongArguments, match=r"one: x has .*, annotated Float"):
            called(one, bad)
    assert shapes(called(one, [1, 2], "text", None)) == [("n",)]


def test_a_union_allows_each_of_its_parts() -> None:
    def one(
        x: Float[Array, " n"] | float,
        y: Float[Array, " n"] | Int[Array, " n"],
        z: Float[Array, " n"] | Int[Array, "n 2"],
    ) -> Any:
        return x + y

    ints = np.zeros(3, np.int32)
    assert shapes(called(one, 2.0, ints, zeros(4))) == [(), ("n",), (4,)]
    assert shapes(called(one, zeros(3), zeros(3), np.zeros((1, 2), np.int32))) == [("n",), ("n",), (1, 2)]
    with pytest.raises(WrongArguments, match=r'y is bool, annotated Float\[Array, "n"\] \| Int'):
        called(one, 2.0, np.zeros(3, bool), zeros(4))


def test_keys_have_the_shape_of_their_array() -> None:
    def draw(key: Key[Array, ""], keys: Key[Array, " n"]) -> Any:
        return jax.random.normal(key), jax.vmap(jax.random.normal)(keys)

    key, keys = jax.random.key(0), jax.random.split(jax.random.key(1), 3)
    assert shapes(called(draw, key, keys)) == [(2,), ("n", 2)]
    got, wanted = remote(programs(draw), key, keys), jax.jit(draw)(key, keys)
    assert got[1].tolist() == wanted[1].tolist()
    with pytest.raises(WrongArguments, match="key has shape"):
        called(draw, keys, keys)


def test_an_annotation_of_all_arguments_is_one_of_each() -> None:
    def every(*xs: Float[Array, " n"], **named: Float[Array, " n"]) -> Any:
        return sum(xs) + named["k"]

    assert shapes(called(every, zeros(3), [1, 2, 3], k=zeros(3))) == [("n",)] * 3
    assert remote(programs(every), zeros(3), [1, 2, 3], k=zeros(3)).tolist() == [1, 2, 3]
    with pytest.raises(WrongArguments, match=r"xs\[1\] has shape \(2,\), asked for \(n,\)"):
        called(every, zeros(3), zeros(2))


def double(x: Any) -> Any:
    return x * 2


def test_batch_gives_arrays_a_leading_name() -> None:
    one: Programs = programs(double, batch=Batch())
    assert shapes(one.analyse((zeros(3, 4),), {}, False)) == [("b", 4)]
    assert remote(one, np.ones((3, 4))).shape == (3, 4) and remote(one, np.ones((5, 4))).shape == (5, 4)
    assert len(one._known) == 1
    assert remote(one, zeros(0, 4)).shape == (0, 4), "what is empty has a program of its own"
    rows = programs(annotated_rows, batch=Batch())
    with pytest.raises(WrongArguments, match="annotated") as caught:
        rows.analyse((zeros(4),), {}, False)
    assert "x[None]" in caught.value.hint


def annotated_rows(x: Float[Array, "b 4"]) -> Any:
    return x
