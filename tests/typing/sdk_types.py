"""Proof, by the type checkers alone, that decorated functions keep their types. See tests/unit/test_sdk_typing.py.

What must be an error stands in ``refused.py``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, assert_type

import fleet

T = TypeVar("T")


@fleet.function
def add(x: int, y: int = 1) -> int:
    return x + y


@fleet.function(timeout="10m", retries=fleet.Retries(max_attempts=3), requires=fleet.Requires(region="eu"))
def name(who: str, *, loud: bool = False) -> str:
    return who.upper() if loud else who


@fleet.function
async def fetch(x: int) -> bytes:
    return bytes(x)


@fleet.function(memory="1GiB")
async def fetch_large(x: int) -> bytes:
    return bytes(x)


@fleet.function
def every_kind(a: int, /, *rest: float, key: str, **more: bool) -> dict[str, bool]:
    return {key: bool(a or rest), **more}


@fleet.function
def nothing() -> None: ...


@fleet.function()
def called_without_options(x: int) -> list[int]:
    return [x]


app = fleet.App("app")


@app.function
def of_app(x: float) -> list[float]:
    return [x]


@app.function(max_concurrency=3)
def of_app_too(x: float) -> list[float]:
    return [x]


@app.function
async def of_app_async(x: int) -> str:
    return str(x)


@app.function(isolation="call")
async def of_app_async_too(x: int) -> str:
    return str(x)


Params = dict[str, list[float]]
weights: Params = {"scale": [2.0]}


@fleet.function(runtime="jax", params=weights)
def weighed(params: Params, x: float, y: float = 1.0) -> list[float]:
    return [one * x + y for one in params["scale"]]


@app.function(runtime="jax", params=lambda: weights, batch=fleet.Batch(max_size=8), timeout="10m")
def weighed_in_batches(params: Params, x: float, *, loud: bool = False) -> float:
    return params["scale"][0] * x


def plain(x: int, y: str) -> bytes:
    return b""


# --- what the decorator makes -----------------------------------------------------------------------------------------

made = fleet.function(plain)
assert_type(made.remote(1, "a"), bytes)
assert_type(fleet.function(memory="64MiB")(plain).remote(x=1, y="a"), bytes)
square: Callable[[int], int] = lambda x: x * x  # noqa: E731
of_lambda: fleet.Function[[int], int] = fleet.function(square)
assert_type(of_lambda.remote(1), int)
callable_again: Callable[[int, str], bytes] = made
assert_type(made.options.timeout_s, float)
assert_type(fleet.Function.from_name("app", "fn").remote(1, a=2), Any)
assert_type(fleet.keep(made.options.timeout_s), float)


def generic(function: fleet.Function[[int], T]) -> T:
    """A Function passed on keeps what it returns."""
    return function.remote(1)


assert_type(generic(of_lambda), int)


# --- blocking ---------------------------------------------------------------------------------------------------------

assert_type(add(1), int)
assert_type(add.local(1, y=2), int)
assert_type(add.remote(1), int)
assert_type(add.remote(x=1, y=2), int)
assert_type(add.spawn(1), fleet.Call[int])
assert_type(add.spawn(1).result(), int)
assert_type(add.spawn(1).result(timeout=3.0), int)
assert_type(add.spawn(1).explain(), str)
assert_type(add.spawn(1).logs(), list[str])
assert_type(add.spawn(1).cancel(), bool)
assert_type(add.spawn(1).id, str)
assert_type(fleet.Call.from_id("c").result(), Any)
assert_type(add.map([1, 2]), Iterator[int])
assert_type(add.map([1, 2], [3, 4], order_outputs=False), Iterator[int])
assert_type(add.map([1, 2], return_exceptions=True), Iterator[int | Exception])
assert_type(add.starmap([(1, 2)]), Iterator[int])
assert_type(add.starmap(iter([(1,)]), return_exceptions=True, chunksize=3), Iterator[int | Exception])
assert_type(add.spawn_map([1, 2]), fleet.CallGroup[int])
assert_type(add.spawn_map([1, 2]).results(), Iterator[int])
assert_type(add.spawn_map([1, 2]).status(), dict[str, int])
assert_type(add.spawn_map([1, 2]).cancel(), int)
assert_type(add.spawn_map([1, 2]).id, str)
assert_type(len(add.spawn_map([1, 2])), int)
assert_type(add.with_options(timeout=3).remote(1), int)
assert_type(add.with_options(retries=2).with_options(memory=1 << 28).spawn(1), fleet.Call[int])
assert_type(name.remote("a", loud=True), str)
assert_type(fetch.remote(1), bytes)
assert_type(fetch.spawn(1).result(), bytes)
assert_type(fetch.map([1]), Iterator[bytes])
assert_type(fetch_large.remote(1), bytes)
assert_type(every_kind.remote(1, 2.0, 3.0, key="k", other=True), dict[str, bool])
assert_type(called_without_options.remote(1), list[int])
assert_type(of_app.remote(1.0), list[float])
assert_type(of_app_too.spawn(1.0).result(), list[float])
assert_type(of_app_async.remote(1), str)
assert_type(of_app_async_too.remote(1), str)


# --- asyncio ----------------------------------------------------------------------------------------------------------


async def asynchronous() -> None:
    called: Coroutine[Any, Any, bytes] = fetch(1)
    local: Coroutine[Any, Any, bytes] = fetch.local(1)
    assert_type((await called, await local), tuple[bytes, bytes])
    assert_type(await of_app_async(1), str)
    assert_type(await add.remote.aio(1), int)
    assert_type(await fetch.remote.aio(1), bytes)
    assert_type(await add.spawn.aio(1), fleet.Call[int])
    assert_type(await (await add.spawn.aio(1)), int)
    assert_type(await add.spawn(1).result.aio(), int)
    assert_type(await add.spawn(1).result.aio(timeout=1), int)
    assert_type(await add.spawn(1).cancel.aio(), bool)
    assert_type(await add.spawn(1).explain.aio(), str)
    assert_type(await add.spawn(1).logs.aio(), list[str])
    assert_type(add.map.aio([1]), AsyncIterator[int])
    assert_type(add.map.aio([1], return_exceptions=True), AsyncIterator[int | Exception])
    assert_type(add.starmap.aio([(1, 2)]), AsyncIterator[int])
    assert_type(await add.spawn_map.aio([1]), fleet.CallGroup[int])
    assert_type(add.spawn_map([1]).results.aio(), AsyncIterator[int])
    assert_type(await add.spawn_map([1]).status.aio(), dict[str, int])
    assert_type(await add.spawn_map([1]).cancel.aio(), int)
    async for value in fetch.map.aio([1]):
        assert_type(value, bytes)


# --- what has no value ------------------------------------------------------------------------------------------------


def without_value() -> None:
    """Functions of no result, and calls for their side effects."""
    nothing.remote()
    add.for_each([1, 2], ignore_exceptions=True)
    call: fleet.Call[None] = nothing.spawn()
    call.result()


# --- inside a class ---------------------------------------------------------------------------------------------------


class Jobs:
    """A class as a namespace: its functions have no self."""

    held: fleet.Function[[int], int]

    @staticmethod
    @fleet.function
    def triple(x: int) -> int:
        return x * 3

    def __init__(self, function: fleet.Function[[int], int]) -> None:
        self.function = self.held = function


assert_type(Jobs.triple.remote(1), int)
assert_type(Jobs(of_lambda).triple.remote(1), int)
assert_type(Jobs(of_lambda).function.remote(1), int)
assert_type(Jobs(of_lambda).held.map([1]), Iterator[int])


# --- covariance -------------------------------------------------------------------------------------------------------

wide: fleet.Call[object] = add.spawn(1)
wide_group: fleet.CallGroup[int | str] = add.spawn_map([1])
literal: Literal["wasm", "jax"] = add.options.runtime


# --- put --------------------------------------------------------------------------------------------------------------


def publish() -> None:
    assert_type(fleet.publish("a.b", {"t": 1}, id="1", source="/s", type="t", time=None), str)


async def publish_aio() -> None:
    assert_type(await fleet.publish.aio("a.b", b"x", datacontenttype="image/png"), str)


def put() -> None:
    """What is put has the type that functions take; at run time it is a fleet.Ref."""
    ref = fleet.put([1.5])
    assert_type(ref, list[float])
    assert_type(add.remote(fleet.put(3)), int)


async def put_aio() -> None:
    """The asyncio twin."""
    assert_type(await fleet.put.aio({"a": 1}), dict[str, int])


# --- generators -------------------------------------------------------------------------------------------------------


@fleet.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@fleet.function(timeout=3)
def words(n: int) -> Generator[str, None, float]:
    yield "x" * n
    return 1.0


@fleet.function
async def late(n: int) -> AsyncIterator[bytes]:
    yield bytes(n)


@app.function
async def late_too(n: int) -> AsyncGenerator[str, None]:
    yield "x" * n


assert_type(next(count.remote_gen(1)), int)
assert_type(next(words.remote_gen(n=1)), str)
assert_type(next(late.remote_gen(1)), bytes)
assert_type(next(late_too.remote_gen(1)), str)
assert_type(next(fleet.Function.from_name("a", "f").remote_gen(1)), Any)
assert_type(list(count.with_options(timeout=1).remote_gen(1)), list[int])
assert_type(count(1), Iterator[int])
assert_type(count.local(1), Iterator[int])


async def iterate() -> None:
    async for number in count.remote_gen.aio(1):
        assert_type(number, int)
    async for data in late.remote_gen.aio(1):
        assert_type(data, bytes)


# --- weights: no part of the call -------------------------------------------------------------------------------------

assert_type(weighed(1.0), list[float])
assert_type(weighed.local(x=1.0, y=2.0), list[float])
assert_type(weighed.remote(1.0, 2.0), list[float])
assert_type(weighed.spawn(y=1.0, x=2.0), fleet.Call[list[float]])
assert_type(weighed.map([1.0, 2.0]), Iterator[list[float]])
assert_type(weighed.with_options(timeout=3).remote(1.0), list[float])
assert_type(weighed_in_batches.remote(1.0, loud=True), float)
assert_type(fleet.function(runtime="jax", params=weights)(plain).remote("a"), bytes)


# --- triggers ---------------------------------------------------------------------------------------------------------


@fleet.function(
    on=[fleet.cron("@daily", timezone="UTC", missed="skip"), fleet.every("30s"), fleet.at(datetime.now(UTC))]
)
def tick(event: fleet.Event) -> list[fleet.Emit]:
    return [fleet.emit("ticks.seen", event.time)]


hot = fleet.subject(
    "a.*", filter="data.t > 3", batch=fleet.EventBatch(max_size=5), debounce=1, key="id", rate_limit="9/s"
)


@app.function(on=[hot])
async def together(events: list[fleet.Event]) -> fleet.Response:
    return fleet.Response(len(events), 201, {"x-a": "b"})


assert_type(fleet.function(on=(fleet.http("GET", "/x"),))(nothing).remote(), None)
assert_type(tick(fleet.Event("a", {"t": 1})), list[fleet.Emit])
assert_type(together.with_options(on=[]).remote([]), fleet.Response)
