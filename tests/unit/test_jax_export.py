"""Functions as modules: where they run and why not elsewhere, results rebuilt, and every refusal."""

from __future__ import annotations

import collections
import functools
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from jaxtyping import Array, Float, Int

import fleet
from fleet._jax import refs
from fleet._jax.kept import Kept
from fleet._jax.program import platforms_text
from fleet._portable.arguments import ArgumentPickler
from fleet.protocol import jax_bundle
from fleet.protocol.errors import DeployError, InvalidOption, PayloadTooLarge, WrongArguments
from fleet.protocol.options import Batch
from tests.unit.jax_rig import executed, payload, programs, remote, trace

ROOT = Path(__file__).parents[2]
ALL = ("cpu", "cuda", "tpu")
SHAPE: Any = jax.eval_shape(lambda: jnp.zeros(2))


def matmul(x: Float[Array, "b s"], w: Float[Array, "s 2*b"], mode: str = "sum") -> Any:
    return {"y": getattr(x @ w, mode)(-1), "z": [x, None, (w.T,)]}


def test_a_program_is_for_all_platforms_and_any_size() -> None:
    one = programs(matmul)
    x, w = np.random.default_rng(1).random((3, 4)), jnp.ones((4, 6))
    traced = trace(one, x, w)
    assert platforms_text(traced.jax_program) == "cpu cuda tpu"
    (module,) = traced.jax_program.modules
    assert tuple(module.platforms) == ALL and module.calling_convention >= 9 and module.stablehlo.count(".") == 2
    assert [(one.dtype, one.shape) for one in traced.jax_program.inputs] == [
        ("float32", ["b", "s"]),
        ("float32", ["s", "2*b"]),
    ]
    assert [one.shape for one in traced.jax_program.outputs] == [["b"], ["b", "s"], ["2*b", "s"]]
    assert json.loads(traced.jax_program.arguments) == [["x", 0], ["w", 1]]
    for rows in (3, 5):
        x, w = np.random.default_rng(rows).random((rows, 4)), jnp.ones((4, 2 * rows))
        got = remote(one, x, w)
        assert trace(one, x, w) is traced
        np.testing.assert_allclose(got["y"], (x @ w).sum(-1), rtol=1e-5)
        assert isinstance(got["y"], jax.Array) and got["z"][1] is None and got["z"][2][0].shape == (2 * rows, 4)


def test_a_module_says_nothing_of_this_machine_and_is_the_same_each_time() -> None:
    first, second = (trace(programs(matmul), np.ones((3, 4)), np.ones((4, 6))) for _ in range(2))
    assert first.digest == second.digest
    head, modules = jax_bundle.unpack(first.bundle)
    assert __file__.encode() not in first.bundle and b"test_jax_export" not in bytes(modules[0])
    assert head["x64"] is False and head["batch"] is None and head["modules"][0]["platforms"] == list(ALL)


def eigen(x: Float[Array, "n n"]) -> Any:
    return jnp.linalg.eigvalsh(x)


def rows(x: Float[Array, " n"]) -> Any:
    total: Any = 0.0
    for row in range(x.shape[0]):
        total = total + x[row]
    return total


def test_platforms_that_fail_are_recorded_with_the_reason() -> None:
    traced = trace(programs(eigen), np.eye(3))
    there = {one for module in traced.jax_program.modules for one in module.platforms}
    assert "cpu" in there and "tpu" not in there
    assert set(traced.jax_program.why_not) == set(ALL) - there and "eigh" in traced.jax_program.why_not["tpu"]
    assert traced.platforms_text.startswith("cpu") and "not tpu: Shape polymorphism" in traced.platforms_text
    np.testing.assert_allclose(remote(programs(eigen), [[1, 2], [2, 1]]), [-1, 3], atol=1e-5)


def test_what_has_no_symbolic_form_gets_fixed_shapes() -> None:
    one = programs(rows)
    assert remote(one, [1.0, 2.0]) == 3 and remote(one, [1.0, 2.0, 3.0]) == 6
    traced = trace(one, [1.0, 2.0])
    assert traced.jax_program.inputs[0].shape == [2] and "_DimExpr" in traced.jax_program.why_not["shapes"]
    assert "fixed shapes" in traced.platforms_text and len(one._known) == 2
    with pytest.raises(DeployError, match="for any size of its named dimensions"):
        one.for_deploy()


Point = collections.namedtuple("Point", "x y")


def results(x: Any) -> Any:
    keyed = jax.random.fold_in(x["key"], 7)
    other = collections.OrderedDict(b=x["a"], a=x["a"] + 1)
    return (
        Point(keyed, {"n": 3, "none": None}),
        other,
        {(1, 2): jnp.bfloat16(1)},
        [x["a"].astype(jnp.bfloat16)],
        jnp.zeros((0, 2)),
    )


def test_results_come_back_as_they_were_returned() -> None:
    given = {"key": jax.random.key(3), "a": np.arange(3, dtype=np.int8)}
    got, wanted = remote(programs(results), given), results(jax.tree.map(jnp.asarray, given))
    assert str(jax.tree.structure(got)) == str(jax.tree.structure(wanted)) and type(got[1]) is collections.OrderedDict
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert isinstance(one, jax.Array) and one.dtype == jnp.asarray(other).dtype
    assert (jax.random.key_data(got[0].x) == jax.random.key_data(wanted[0].x)).all()


@pytest.mark.parametrize("given", [2.0, 2, np.ones(2), np.arange(3), jnp.bfloat16(1), jnp.array(2.0)])
def test_results_are_as_weak_as_jit_has_them(given: Any) -> None:
    raw = lambda x: (x, x * 2.0, [x + 1], x.sum())  # noqa: E731
    for one, other in zip(
        jax.tree.leaves(remote(programs(raw), given)), jax.tree.leaves(jax.jit(raw)(given)), strict=True
    ):
        assert (one.aval, one.tolist()) == (other.aval, other.tolist())


def wide(x: Any) -> Any:
    return x + 1


def test_the_64_bits_of_the_caller_are_those_of_the_program() -> None:
    one = programs(wide)
    with jax.enable_x64(True):
        traced = trace(one, np.float64(1))
        got = remote(one, np.float64(1 / 3))
        assert got.dtype == np.float64 and isinstance(got, jax.Array) and traced.jax_program.x64
        data = payload(one, np.float64(1 / 3))
    late = traced.unpack(executed(traced, data))
    assert isinstance(late, np.ndarray) and late.dtype == np.float64, "it would lose bits as a jax array now"
    assert remote(one, np.float64(1)).dtype == np.float32


def keeping(x: Any) -> Any:
    return {"state": Kept((x, x + 1)), "shown": x}


def test_a_kept_part_is_one_leaf_of_the_result() -> None:
    traced = trace(programs(keeping), np.ones(2))
    head, _ = jax_bundle.unpack(traced.bundle)
    assert head["result"] == {"dict": [["shown", 0], ["state", {"keep": {"tuple": [1, 2]}}]]}
    record = {"ref": "0" * 64, "bytes": 9, "arrays": [["float32", [2]], ["float32", [2]]]}
    got = traced.unpack({"shown": np.ones(2), "state": record})["state"]
    assert isinstance(got, refs.KeptRef) and jax.tree.structure(got.like).num_leaves == 2


def test_weights_come_first_and_are_no_argument() -> None:
    weights = {"w": np.arange(3, dtype=np.float32), "b": np.float32(1)}

    def linear(x: Any, params: Any) -> Any:
        return params["w"] * x + params["b"]

    one = programs(linear, params=weights)
    traced = trace(one, 2.0)
    head, _ = jax_bundle.unpack(traced.bundle)
    assert head["weights"] == [["float32", []], ["float32", [3]]] and len(traced.jax_program.weights) == 1
    assert remote(one, 2.0).tolist() == [1, 3, 5]
    assert traced.read(traced.jax_program.weights[0].digest)[:8] and traced.read(traced.digest) == traced.bundle


def test_values_that_were_put_travel_by_digest() -> None:
    arrays = refs.of_value({"x": np.ones((30, 4)), "w": jnp.ones((4, 6))})
    assert arrays is not None
    data, ref = arrays
    one = programs(lambda v, k: v["x"] @ v["w"] * k)
    packed: Any = payload(one, ref, 2.0)
    assert len(packed) < 300 < len(data) and list(packed.refs) == [ref.digest]
    assert remote(one, ref, 2.0).tolist() == (np.ones((30, 6)) * 8).tolist()
    mixed = refs.of_value({"x": np.ones(3), "k": 3})
    assert mixed is not None and refs.of_value({"x": np.ones(3), "k": "text"}) is refs.of_value([1.0]) is None
    assert refs.of_value([np.ones(3), 1 << 40]) is None
    times = programs(lambda v: v["x"].astype(jnp.float16) * v["k"])
    for one_ref in (mixed[1], pickle.loads(pickle.dumps(mixed[1]))):
        assert trace(times, one_ref) is trace(times, {"x": np.ones(3), "k": 3}), "a number is as weak as itself"
    assert remote(times, mixed[1]).tolist() == [3, 3, 3]
    with pytest.raises(WrongArguments, match="argument 0 is a reference to arrays, which the sandbox doesn't have"):
        ArgumentPickler(None).dumps((mixed[1],), {})
    pickled: fleet.Ref[Any] = fleet.Ref("0" * 64, 5, [1.0, 2.0])
    again: Any = payload(programs(lambda v: v[0] + v[1]), pickled)
    (stored,) = again.refs.values()
    assert stored.digest != pickled.digest and remote(programs(lambda v: v[0] + v[1]), pickled) == 3


# --- refusals --------------------------------------------------------------------------------------------------------


def _printing(x: Any) -> Any:
    jax.debug.print("{}", x)
    return x


def _sharded(x: Any) -> Any:
    return jax.lax.fori_loop(0, 3, lambda _, y: jax.pure_callback(np.sin, SHAPE, y), x)


def _branching(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "debug.print": (_printing, ["jax.debug.print at line", "test_jax_export.py", "no Python of yours runs on a car"]),
    "callback in a loop": (_sharded, ["jax.pure_callback at line"]),
    "io": (lambda x: io_callback(lambda v: v, SHAPE, x), ["io_callback at line"]),
    "if": (_branching, ["line", "(if x.sum() > 0:)", "jax.lax.cond", "constant"]),
    "int": (lambda x: jnp.zeros(int(x[0])), ["needs the value of an array", "int(x[0])"]),
    "numpy": (lambda x: np.sin(x), ["needs the value of an array", "use jax.numpy there"]),
    "dtype": (lambda x: x.astype("int2"), ["jax.export has no form for dtype(int2)"]),
    "range": (lambda x: [0.0 for _ in range(x[0].astype(int))], ["needs the value of an array"]),
    "nonzero": (lambda x: jnp.nonzero(x)[0], ["a shape depends on the values", "size="]),
    "mask": (lambda x: x[x > 0], ["a shape depends on the values", "jnp.where"]),
    "event": (lambda x: [fleet.emit("a.b", 1)], ["returns a Emit", "or use runtime='wasm'"]),
    "text": (lambda x: {"a": x, "b": "text"}, ["returns a str ('text')", "return arrays and numbers"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_exported_says_what_to_do(name: str) -> None:
    raw, words = REFUSED[name]
    with pytest.raises(DeployError) as caught:
        trace(programs(raw), np.ones(2))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.hint


def test_an_error_of_the_function_itself_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        trace(programs(lambda x: x / (1 // 0)), np.ones(2))
    assert not getattr(caught.value, "__notes__", []), "jax' remarks on its traceback are in no error message"


def test_large_arrays_from_around_the_function_belong_into_params() -> None:
    middle, large = (np.random.default_rng(0).random(size, np.float32) for size in (300_000, 5_000_000))
    with pytest.raises(PayloadTooLarge, match="of arrays from around it") as caught:
        trace(programs(lambda x: x + large), np.float32(1))
    assert "params=" in str(caught.value)
    with pytest.warns(UserWarning, match="params="):
        trace(programs(lambda x: x + middle), np.float32(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(programs(lambda x: x + middle[:1000]), np.float32(1))


def test_too_many_arrays_are_refused() -> None:
    with pytest.raises(DeployError, match="takes 5000 arrays, the limit is 4096"):
        trace(programs(lambda x: x[0]), [1.0] * 5000)
    with pytest.raises(DeployError, match="their description has more than"):
        trace(programs(lambda x: x[0]), [1.0] * 3000)


@pytest.mark.parametrize(
    ("raw", "args", "said"),
    [
        (lambda x: x.sum(), (np.ones((2, 3)),), "it returns one of shape"),
        (lambda x, y: x + y, (np.ones((2, 3)), 1.0), "leading dimension"),
        (lambda x, y: x[: y.shape[0]], (np.ones((2, 3)), np.ones((4, 3))), "b is 2 in an array before it, and 4 here"),
    ],
)
def test_what_can_not_be_joined_is_refused_with_batch(raw: Any, args: Any, said: str) -> None:
    with pytest.raises((DeployError, WrongArguments), match=said):
        trace(programs(raw, batch=Batch()), *args)


def test_a_program_whose_rows_can_be_joined_says_so() -> None:
    traced = trace(programs(lambda x: x * 2, batch=Batch(max_size=8)), np.ones((2, 3)))
    head, _ = jax_bundle.unpack(traced.bundle)
    assert head["batch"] is True and head["inputs"] == [["float32", ["b", 3]]]
    assert traced.jax_program.batch is not None and traced.jax_program.batch.max_size == 8


def test_generators_and_coroutines_are_refused_when_they_are_decorated() -> None:
    async def later(x: Any) -> Any:
        return x

    def steps(x: Any) -> Any:
        yield x

    for raw in (later, steps):
        with pytest.raises(InvalidOption, match="traces a function once"):
            fleet.function(runtime="jax")(raw)


def deployable(x: Float[Array, "b 3"], n: Int[Array, ""], k: float = 2.0, deep: int = 1, mode: str = "sum") -> Any:
    return x * n * k * deep


def test_a_deploy_takes_its_shapes_from_annotations() -> None:
    program = programs(deployable).for_deploy().jax_program
    assert [(one.dtype, one.shape) for one in program.inputs] == [
        ("float32", ["b", 3]), ("int32", []), ("float32", []), ("int32", [])
    ]  # fmt: skip
    assert json.loads(program.arguments) == [["x", 0], ["n", 1], ["k", 2, 2.0], ["deep", 3, 1]]

    def tiled(x: Float[Array, "b 3"], n: int = 2) -> Any:
        return jnp.tile(x, n)

    assert json.loads(programs(tiled).for_deploy().jax_program.arguments) == [["x", 0]], "n has to be a constant"
    with pytest.raises(DeployError) as caught:
        programs(lambda x, y: x).for_deploy()
    assert "which shape x has" in str(caught.value) and 'x: Float[Array, "b 3"]' in str(caught.value)


def test_copies_of_a_function_share_its_programs() -> None:
    traced = []

    def counted(x: Any) -> Any:
        traced.append(x)
        return x

    from fleet._jax import program

    function = fleet.function(runtime="jax")(counted)
    first = program.describe(function, (1.0,), {})
    assert program.describe(function.with_options(timeout=3), (2.0,), {}) is first and len(traced) == 1


def test_partials_and_lambdas_are_traced() -> None:
    scaled = functools.partial(lambda k, x: k * x, 3.0)
    assert remote(programs(scaled), x=np.ones(2)).tolist() == [3, 3]


def test_without_jax_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet import _prepare

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    weighted: Any = fleet.function(runtime="jax", params={"w": 1})(lambda params, x: x)
    for call in (lambda: _prepare.programs_of(fleet.function(runtime="jax")(wide)), lambda: weighted(1)):
        with pytest.raises(DeployError) as caught:
            call()
        assert "jax is not installed here" in caught.value.message
        assert caught.value.hint == "pip install 'fnplatform[jax]'"
    assert fleet.function(runtime="jax")(lambda x: fleet.keep(x))(3) == 3, "a local call needs no jax"


TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from fleet.protocol.errors import DeployError
from tests.unit.jax_rig import programs, trace
mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
f = jax.shard_map(lambda x: x * 2, mesh=mesh, in_specs=P("a"), out_specs=P("a"))
try:
    trace(programs(f), np.ones(4))
except DeployError as error:
    print(error)
"""


def test_programs_for_several_devices_are_refused() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run([sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert "is for 2 devices: a car has one (hint: leave sharding out" in ran.stdout, ran.stderr
