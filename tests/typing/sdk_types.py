"""Proof, by the type checker alone, that decorated functions keep their types. Checked by tests/unit/test_sdk_typing.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterator
from typing import Any, assert_type

import fleet


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


app = fleet.App("app")


@app.function
def of_app(x: float) -> list[float]:
    return [x]


@app.function(max_concurrency=3)
def of_app_too(x: float) -> list[float]:
    return [x]


assert_type(add(1), int)
assert_type(add.local(1, y=2), int)
assert_type(add.remote(1), int)
assert_type(add.spawn(1), fleet.Call[int])
assert_type(add.spawn(1).result(), int)
assert_type(add.spawn(1).result(timeout=3.0), int)
assert_type(add.spawn(1).explain(), str)
assert_type(add.spawn(1).logs(), list[str])
assert_type(add.spawn(1).cancel(), bool)
assert_type(add.map([1, 2]), Iterator[int])
assert_type(add.map([1, 2], [3, 4], order_outputs=False), Iterator[int])
assert_type(add.map([1, 2], return_exceptions=True), Iterator[int | Exception])
assert_type(add.map.aio([1]), AsyncIterator[int])
assert_type(add.starmap([(1, 2)]), Iterator[int])
assert_type(add.spawn_map([1, 2]), fleet.CallGroup[int])
assert_type(add.spawn_map([1, 2]).results(), Iterator[int])
assert_type(add.spawn_map([1, 2]).status(), dict[str, int])
assert_type(add.with_options(timeout=3).remote(1), int)
assert_type(name.remote("a", loud=True), str)
assert_type(fetch.remote(1), bytes)
assert_type(fetch_large.remote(1), bytes)
assert_type(of_app.remote(1.0), list[float])
assert_type(of_app_too.spawn(1.0).result(), list[float])


async def asynchronous() -> None:
    called: Coroutine[Any, Any, bytes] = fetch(1)
    local: Coroutine[Any, Any, bytes] = fetch.local(1)
    assert_type((await called, await local), tuple[bytes, bytes])
    assert_type(await add.remote.aio(1), int)
    assert_type(await fetch.remote.aio(1), bytes)
    assert_type(await (await add.spawn.aio(1)), int)
    assert_type(await add.spawn(1).result.aio(), int)


# Each of these must be an error: mypy reports an ignore that is not needed.
add("one")  # type: ignore[arg-type]
add.remote("one")  # type: ignore[arg-type]
add.remote(1, z=2)  # type: ignore[call-arg]
add.spawn()  # type: ignore[call-arg]
name.remote("a", True)  # type: ignore[call-arg, misc, unused-ignore]
fleet.function(memroy="1GiB")  # type: ignore[call-overload]
fleet.function(isolation="none")  # type: ignore[call-overload]
fleet.nonsense  # type: ignore[attr-defined]  # noqa: B018


def put() -> None:
    """What is put has the type that functions take; at run time it is a fleet.Ref."""
    ref = fleet.put([1.5])
    assert_type(ref, list[float])
    assert_type(add.remote(fleet.put(3)), int)
    add.remote(fleet.put("3"))  # type: ignore[arg-type]


async def put_aio() -> None:
    """The asyncio twin."""
    assert_type(await fleet.put.aio({"a": 1}), dict[str, int])


# --- generators


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
assert_type(count(1), Iterator[int])
count.remote_gen("x")  # type: ignore[arg-type]
count.remote_gen()  # type: ignore[call-arg]
add.remote_gen(1)  # type: ignore[arg-type]


async def iterate() -> None:
    async for number in count.remote_gen.aio(1):
        assert_type(number, int)
    async for data in late.remote_gen.aio(1):
        assert_type(data, bytes)
