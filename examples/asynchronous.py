"""``async def`` works at both ends: the function may await, and every blocking method has its ``.aio`` twin."""

import asyncio

import fleet


@fleet.function
async def brew(name: str, seconds: float) -> str:
    """Wait as a car would wait for something: here several brews share one event loop inside the sandbox."""
    async with asyncio.timeout(10 * seconds + 1):
        async with asyncio.TaskGroup() as group:
            cups = [group.create_task(asyncio.sleep(seconds, f"{name} {cup}")) for cup in range(3)]
    return ", ".join(cup.result() for cup in cups)


async def main() -> None:
    """Two calls at once from one event loop, then a map read as an async iterator."""
    async with asyncio.TaskGroup() as group:
        tea = group.create_task(brew.remote.aio("tea", 0.05))
        coffee = group.create_task(brew.remote.aio("coffee", 0.05))
    print(tea.result())
    print(coffee.result())
    async for line in brew.map.aio(["mate", "cocoa"], [0.01, 0.01]):
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
