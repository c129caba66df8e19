"""What the type checkers must refuse: each line is an error, and a comment that hides no error is one itself.

``type: ignore`` speaks to mypy, ``pyright: ignore`` to pyright.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from sdk_types import add, count, every_kind, fetch, late, name, of_app, weighed, weights

import fleet

# --- arguments --------------------------------------------------------------------------------------------------------

add("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.local("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.remote("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.remote(1, z=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add.remote(1, 2, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add.spawn()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add.spawn(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
name.remote("a", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
every_kind.remote(a=1, key="k")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
every_kind.remote(1, "x", key="k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
of_app.remote([1.0])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.map(1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
add.map([1], chunksize="many")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
add.remote(fleet.put("3"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

weighed(weights, 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
weighed.remote(x=1.0, params=weights)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
weighed.remote()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
fleet.function(runtime="jax", params=weights)("no function")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fleet.function(params=weights, memroy="1GiB")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# --- results ----------------------------------------------------------------------------------------------------------

text: str = add.remote(1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
call: fleet.Call[str] = add.spawn(1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
texts: Iterator[str] = add.map([1])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
group: fleet.CallGroup[str] = add.spawn_map([1])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
sure: Iterator[int] = add.map([1], return_exceptions=True)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


async def asynchronous() -> None:
    text: str = await add.remote.aio(1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await add.remote.aio("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    data: bytes = fetch(1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    values: AsyncIterator[str] = add.map.aio([1])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await add.remote(1)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    print(text, data, values)


# --- generators -------------------------------------------------------------------------------------------------------

count.remote_gen("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
count.remote_gen()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
add.remote_gen(1)  # type: ignore[arg-type]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
texts_too: Iterator[str] = count.remote_gen(1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


async def generators() -> None:
    values: AsyncIterator[str] = late.remote_gen.aio(1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await count.remote_gen.aio(1)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    print(values)


# --- options ----------------------------------------------------------------------------------------------------------

fleet.function(memroy="1GiB")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
fleet.function(isolation="none")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
fleet.function(runtime="native")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
fleet.function("not a function")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
add.with_options(timeout=[])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
add.with_options(tiemout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
print(fleet.nonsense)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


# --- methods ----------------------------------------------------------------------------------------------------------


class Counter:
    """Its method has a self, which no car has."""

    @fleet.function
    def count(self, n: int) -> int:
        return n


Counter().count.remote(1)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
Counter.count.remote(1)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]

# --- triggers ---------------------------------------------------------------------------------------------------------

fleet.function(on=["@daily"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
fleet.function(on=fleet.every(1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
fleet.every("1s", missed="most")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fleet.http("FETCH", "/a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fleet.at("2027-01-01")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fleet.subject("a", batch=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
