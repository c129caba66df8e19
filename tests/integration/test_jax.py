"""The jax lane from end to end, as developers meet it: calls, maps, deploys, and errors before anything is sent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import fleet
from fleet import _client, _deploy, _register
from fleet._client import Client
from fleet.cli import apps, calls
from tests.integration import jax_functions as fn
from tests.integration.jax_any import double, unrolled

pytestmark = pytest.mark.usefixtures("shared_fleet")


pair: Any = fn.Pair


def test_calls_of_every_kind_give_jax_arrays() -> None:
    got = fn.combine.remote(pair(np.ones(3), jnp.arange(3.0)), mode="sum")
    assert isinstance(got["pair"], fn.Pair) and isinstance(got["sum"], jax.Array) and got["none"] is None
    assert got["sum"].tolist() == [2, 4, 6] and got["pair"].b.tolist() == [0, 1, 2]
    assert fn.combine.remote(pair=pair([1, 2], [3, 4]), scale=1, mode="minus")["minus"].tolist() == [-4, -6]
    table = jnp.eye(4)
    rows = fn.gather.spawn(table, np.array([2, 0])).result()
    assert rows.dtype == jnp.bfloat16 and rows.tolist() == table[jnp.array([2, 0])].tolist()
    assert asyncio.run(fn.gather.remote.aio(rows.astype(jnp.float32), [1])).tolist() == [[1, 0, 0, 0]]
    assert fn.tiled.remote([1.0, 2.0], 3).shape == (6,) == fn.tiled.remote(np.ones(3)).shape
    assert unrolled.remote([1.0, 2.0]) == 3 and unrolled.remote([1.0, 2.0, 3.0]) == 6
    half = double.remote(jnp.ones(3, jnp.float16))
    assert half.dtype == jnp.float16 and half.tolist() == [2, 2, 2]
    key = jax.random.key(7)
    assert (jax.random.key_data(fn_key.remote(key)) == jax.random.key_data(fn_key(key))).all()
    with jax.enable_x64(True):
        assert double.remote(np.float64(1 / 3)) == 2 / 3


@fleet.function(runtime="jax")
def fn_key(key: Any) -> Any:
    return jax.random.fold_in(key, 1)


def test_items_of_a_map_may_need_several_programs() -> None:
    inputs = [1, 2.5, np.ones(2), np.ones(2) * 3, jnp.ones((1, 2), jnp.int8), 4]
    wanted = [(np.asarray(one) * 2).tolist() for one in inputs]
    assert [one.tolist() for one in double.map(inputs)] == wanted
    assert [one.tolist() for one in double.spawn_map(inputs).results()] == wanted
    assert sorted(str(one.tolist()) for one in double.map(inputs, order_outputs=False)) == sorted(map(str, wanted))
    double.for_each(inputs[:2])
    many = list(double.map(np.arange(500, dtype=np.float32)))
    assert [float(one) for one in many] == [2.0 * number for number in range(500)]


def test_what_does_not_fit_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "submit", lambda *_: pytest.fail("sent"))
    with pytest.raises(fleet.WrongArguments, match=r"pair.b has shape \(4,\), asked for \(n,\)"):
        fn.combine.remote(pair(np.ones(3), np.ones(4)))
    with pytest.raises(fleet.WrongArguments, match="rows is float64, annotated Int"):
        fn.gather.remote(np.eye(2), np.ones(1))
    with pytest.raises(fleet.WrongArguments, match="missing 1 required positional argument: 'x'"):
        double.remote()
    with pytest.raises(fleet.DeployError, match=r"jax.debug.print at line \d+ of test_jax.py"):
        fleet.function(runtime="jax")(lambda x: jax.debug.print("{}", x)).remote(1.0)


def test_values_that_were_put_are_sent_by_digest() -> None:
    table: Any = fleet.put(np.eye(300))
    assert fn.gather.remote(table, [1, 2]).shape == (2, 300)
    assert [one.shape for one in fn.gather.starmap((table, [number]) for number in range(5))] == [(1, 300)] * 5
    assert fn.gather(table, jnp.array([3])).shape == (1, 300), "a local call"
    mixed: Any = fleet.put([1.0, 2.0])
    assert fn.tiled.remote(mixed).tolist() == [1, 2, 1, 2]
    plain = fleet.function(lambda table: len(table))
    with pytest.raises(fleet.WrongArguments, match="which the sandbox doesn't have"):
        plain.remote(table)


BY_NAME = """
import sys, fleet, numpy as np
f = fleet.Function.from_name("jaxed", "combine")
got = f.remote((np.ones(3), [0, 1, 2]))
assert type(got["sum"]) is np.ndarray and got["sum"].tolist() == [2, 4, 6] and type(got["pair"]) is tuple, got
assert [one["sum"].tolist() for one in f.map([([1], [2]), ([3], [4])])] == [[6], [14]]
assert f.remote(([1], [2]), scale=3)["sum"].tolist() == [9]
rows = fleet.Function.from_name("jaxed", "gather").spawn(np.eye(3), [2]).result()
assert str(rows.dtype) == "bfloat16" and rows.tolist() == [[0, 0, 1]], rows
for bad in (lambda: f.remote(([1, 2], [3])), lambda: f.remote(([1], [2]), mode="minus"), lambda: f.remote()):
    try:
        bad()
    except fleet.WrongArguments as error:
        print(error.message)
print("jax" in sys.modules)
"""


def test_deployed_functions_are_called_without_jax(capsys: pytest.CaptureFixture[str]) -> None:
    apps.deploy("tests/integration/jax_functions.py", app="jaxed")
    assert "jaxed.gather jax: cpu cuda tpu" in capsys.readouterr().err
    environment = {**os.environ, "FLEET_URL": _client.current().url}
    words = [sys.executable, "-c", BY_NAME]
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert ran.stdout.splitlines() == [
        "jaxed.combine: pair[1] has shape (1,), its program takes (n,): n is 2 in an array before it, and 1 here",
        "jaxed.combine: mode is fixed in the deployed program, to the default it has there",
        "jaxed.combine(): missing a required argument: 'pair'",
        "False",
    ], ran.stderr  # fmt: skip
    calls.call("jaxed.combine", json_args="[[[1, 2], [3, 4]]]", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"sum": [8, 12], "pair": [[1, 2], [3, 4]], "none": None}
    calls.run("tests/integration/jax_any.py::unrolled", ["[1, 2, 3]"])
    said = capsys.readouterr()
    assert "6" in said.out and "unrolled jax: cpu cuda tpu (fixed shapes: " in said.err
    apps.list_functions("jaxed")
    assert "jax" in capsys.readouterr().out
    with pytest.raises(fleet.DeployError, match="nothing says which shape x has"):
        apps.deploy("tests/integration/jax_any.py")


def test_a_call_by_name_meets_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_register, "NAMED_S", 0.0)
    client = _client.current()
    for factor in (2, 3):
        raw: Any = {2: lambda x: x * 2, 3: lambda x, y: x * y}[factor]
        raw.__annotations__ = {"x": Float[Array, "n"], "y": Float[Array, "n"]}
        function = fleet.App("named").function(runtime="jax", name="times")(raw)
        _deploy.deploy(client, _deploy.LoadedApp("named", [function]))
        if factor == 2:
            found = fleet.Function.from_name("named", "times")
            assert found.remote([1, 2]).tolist() == [2, 4]
    assert found.remote([1, 2], [3, 4]).tolist() == [3, 8]
