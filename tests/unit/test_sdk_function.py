"""fleet.Function: runs here when called, checks arguments before anything is sent, and ``import fleet`` stays light."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import fleet
from fleet._register import signature_text
from tests.unit import sdk_sample


def test_calls_run_here() -> None:
    assert sdk_sample.add(1) == 2
    assert sdk_sample.add.local(1, y=5) == 6
    assert sdk_sample.add.__name__ == "add"
    assert sdk_sample.add.__doc__ == "Add."
    assert str(inspect.signature(sdk_sample.add)) == "(x: 'int', y: 'int' = 1) -> 'int'"


def test_an_async_function_gives_its_coroutine() -> None:
    coroutine = sdk_sample.double(4)
    assert inspect.iscoroutine(coroutine)
    assert asyncio.run(coroutine) == 8


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 3}), ((1,), {"x": 1}), ((), {"y": 1})]
)
def test_wrong_arguments_are_worded_as_python_does(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as python:
        sdk_sample.add(*args, **kwargs)
    with pytest.raises(fleet.WrongArguments) as ours:
        sdk_sample.add.check_arguments(args, kwargs)
    assert ours.value.message == str(python.value)
    assert "add(x: int, y: int = 1) -> int" in ours.value.hint.replace("'", "")


def test_arguments_that_fit_pass() -> None:
    sdk_sample.add.check_arguments((1,), {})
    sdk_sample.add.check_arguments((), {"x": 1, "y": 2})
    sdk_sample.everything.check_arguments((1, 2, 3, 4), {"key": 1, "more": 2})
    with pytest.raises(fleet.WrongArguments, match="keyword-only"):
        sdk_sample.everything.check_arguments((1, 2), {})
    with pytest.raises(fleet.WrongArguments, match="positional-only"):
        sdk_sample.add_positional.check_arguments((), {"x": 1})


def test_a_wrapper_decides_what_it_takes() -> None:
    def injecting(inner: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(inner)
        def wrapper(*args: int) -> int:
            return inner(1, *args)

        return wrapper

    @fleet.function
    @injecting
    def three(a: int, b: int, c: int) -> int:
        return a + b + c

    three.check_arguments((2, 3), {})
    assert three(2, 3) == 6


def takes_events(events):  # type: ignore[no-untyped-def]
    """Its annotations are classes, not text, as in modules without ``from __future__ import annotations``."""


takes_events.__annotations__ = {"events": list[fleet.Event], "return": fleet.Response | None}


def test_signatures_for_people_are_the_same_in_every_process() -> None:
    assert signature_text(sdk_sample.add) == "(x: int, y: int = 1) -> int"
    assert signature_text(fleet.function(takes_events)) == "(events: list[fleet.Event]) -> fleet.Response | None"
    assert signature_text(sdk_sample.with_object_default) == "(x: object = <object object>) -> object"


def test_with_options_copies() -> None:
    fast = sdk_sample.add.with_options(timeout=5, name="fast-add")
    assert fast.options.timeout_s == 5
    assert sdk_sample.add.options.timeout_s == 60
    assert fast.name == "fast-add"
    assert fast(1) == 2
    assert isinstance(sdk_sample.double.with_options(timeout=1), type(sdk_sample.double))


def test_names_and_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sdk_sample.add.name == "add"
    assert sdk_sample.add.app_name == "sdk_sample"
    assert sdk_sample.billed.app_name == "billing"
    assert sdk_sample.Tools.scale.name.startswith("Tools-scale-")
    monkeypatch.setenv("FLEET_APP", "from-env")
    assert sdk_sample.add.app_name == "from-env"
    assert sdk_sample.billed.app_name == "billing"
    with pytest.raises(fleet.InvalidOption):
        fleet.App("not a token")


def test_a_function_pickles_by_name() -> None:
    assert pickle.loads(pickle.dumps(sdk_sample.add)) is sdk_sample.add


def test_a_function_found_by_name_has_no_source() -> None:
    with pytest.raises(fleet.InvalidOption, match="version '1' is not allowed: a function's version is 16 hex digits"):
        fleet.Function.from_name("shop", "price", version="1")
    found = fleet.Function.from_name("shop", "price")
    assert (found.app_name, found.name) == ("shop", "price")
    with pytest.raises(fleet.NotDeployed, match="source is not here"):
        found(1)
    with pytest.raises(fleet.InvalidOption):
        found.with_options(timeout=1)
    again = pickle.loads(pickle.dumps(found))
    assert (again.app_name, again.name) == ("shop", "price")


@pytest.mark.parametrize("bad", [3, int, None.__class__])
def test_only_functions_are_decorated(bad: Any) -> None:
    with pytest.raises(fleet.InvalidOption, match="takes a function"):
        fleet.function(bad)


def test_decorating_twice_is_refused() -> None:
    with pytest.raises(fleet.InvalidOption, match="already"):
        fleet.function(sdk_sample.add)


# --- what a running call may ask


def test_current_works_locally() -> None:
    assert sdk_sample.remember(1) == (None, 1, "local", False)
    assert sdk_sample.remember(2) == (None, 2, "local", False), "a new call starts without the state of the last one"


def test_current_keeps_async_calls_apart() -> None:
    async def both() -> list[Any]:
        return [await sdk_sample.remember_async(1), await sdk_sample.remember_async(2)]

    assert asyncio.run(both()) == [(None, 1), (None, 2)]


def test_current_asks_the_installed_backend() -> None:
    from fleet import _context

    class InSandbox(_context.LocalBackend):
        def __init__(self) -> None:
            super().__init__()
            self.attempt, self.car, self.deadline = 3, "car-x", 99.5

        def departing(self) -> bool:
            return True

    backend = InSandbox()
    _context.install(backend)
    try:
        assert sdk_sample.remember(7) == (None, 7, "car-x", True)
        assert sdk_sample.remember(8) == (7, 8, "car-x", True)
        assert (fleet.current().attempt, fleet.current().deadline) == (3, 99.5)
        assert fleet.current().call_id == backend.call_id
    finally:
        _context.install(None)


def test_a_large_checkpoint_is_refused() -> None:
    with pytest.raises(fleet.PayloadTooLarge, match="over the limit of 4 MiB"):
        fleet.current().checkpoint(b"x" * (5 << 20))


# --- the module


def test_all_is_sorted_and_complete() -> None:
    assert fleet.__all__ == sorted(fleet.__all__)
    for name in fleet.__all__:
        assert getattr(fleet, name) is not None, name
    assert set(fleet.__all__) <= set(dir(fleet))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fleet.nonsense  # type: ignore[attr-defined]


def test_import_is_light() -> None:
    script = (
        "import sys, fleet\n"
        "@fleet.function(memory='1GiB', retries=fleet.Retries(2))\n"
        "def f(x): return fleet.current().attempt + x\n"
        "@fleet.function(runtime='jax', batch=fleet.Batch(max_size=8, max_wait='5ms'))\n"
        "def g(x): return x\n"
        "app = fleet.App('a')\n"
        "assert f(1) == g(2) == 2\n"
        "heavy = {'nats', 'pydantic', 'wasmtime', 'anyio', 'numpy', 'jax', 'asyncio', 'cloudpickle'} & set(sys.modules)\n"
        "sys.exit(f'not light: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["runtime.agent", "runtime.slot_main", "fnplatform.serve"])
def test_cars_and_control_plane_start_without_jax(module: str) -> None:
    script = f"import sys, {module}; sys.exit(str({{'jax', 'jaxlib', 'numpy'}} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == ""
