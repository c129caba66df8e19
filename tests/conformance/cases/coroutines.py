"""Asynchronous functions: await, tasks, asynchronous iteration and context managers."""

import asyncio
import contextlib
import functools

from tests.conformance.case import case, made


async def _soon(value):
    await asyncio.sleep(0)
    return value


@case("an async function", 4)
async def awaits(n):
    return await _soon(n) * 2


@case("an async function that never waits")
async def never_waits():
    return "at once"


@case("an async function that raises", raises=ValueError)
async def raises():
    await _soon(1)
    raise ValueError("from a coroutine")


@case("asyncio.run inside a plain function", 3)
def runs(n):
    return asyncio.run(awaits(n))


@case("asyncio.gather keeps the order")
async def gathers():
    return await asyncio.gather(_soon("a"), _soon("b"), _soon("c"))


@case("gather with exceptions as results")
async def gathers_errors():
    found = await asyncio.gather(_soon(1), raises(), return_exceptions=True)
    return [str(one) for one in found]


@case("a task group")
async def task_group():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_soon(n)) for n in range(3)]
    return [task.result() for task in tasks]


@case("a task group in which two tasks fail")
async def failing_group():
    async def fail(kind):
        raise kind("x")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(ValueError))
            group.create_task(fail(KeyError))
    except* ValueError as group:
        found = [type(error).__name__ for error in group.exceptions]
    except* KeyError:
        pass
    return found


@case("a timeout that comes", raises=TimeoutError)
async def times_out():
    async with asyncio.timeout(0.01):
        await asyncio.sleep(5)


@case("wait_for in time")
async def in_time():
    return await asyncio.wait_for(_soon("in time"), 5)


@case("cancellation of a task")
async def cancels():
    async def forever():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    seen = []
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return seen, task.cancelled()


@case("an asynchronous generator")
async def async_generator():
    async def numbers():
        for n in range(3):
            await asyncio.sleep(0)
            yield n

    return [n async for n in numbers()]


@case("an asynchronous iterator of the script")
async def async_iterator():
    class Countdown:
        def __init__(self, n):
            self.n = n

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.n:
                raise StopAsyncIteration
            self.n -= 1
            return self.n

    found = []
    async for n in Countdown(3):
        found.append(n)
    else:
        found.append("else")
    return found, await anext(Countdown(1)), await anext(Countdown(0), "none")


@case("an asynchronous context manager")
async def async_manager():
    seen = []

    class Noted:
        async def __aenter__(self):
            seen.append("enter")
            return self

        async def __aexit__(self, kind, error, trace):
            seen.append(kind.__name__ if kind else "exit")
            return True

    async with Noted():
        raise KeyError("swallowed")
    async with Noted():
        pass
    return seen


@case("contextlib.asynccontextmanager and AsyncExitStack")
async def async_exit_stack():
    seen = []

    @contextlib.asynccontextmanager
    async def opened(name):
        seen.append(f"open {name}")
        yield name
        seen.append(f"close {name}")

    async with contextlib.AsyncExitStack() as stack:
        for name in "ab":
            await stack.enter_async_context(opened(name))
    return seen


@case("a producer and a consumer with a queue", [3, 1, 2])
async def queue(values):
    waiting, done = asyncio.Queue(maxsize=1), []

    async def produce():
        for value in values:
            await waiting.put(value)
        await waiting.put(None)

    async def consume():
        while (value := await waiting.get()) is not None:
            done.append(value * 10)

    await asyncio.gather(produce(), consume())
    return done


@case("locks, events and semaphores")
async def locks():
    lock, event, places, seen = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(1), []

    async def first():
        async with lock:
            seen.append("first")
            event.set()

    async def second():
        await event.wait()
        async with lock, places:
            seen.append("second")

    await asyncio.gather(second(), first())
    return seen


@case("call_later and futures of the loop")
async def loop_calls():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(0.001, future.set_result, "later")
    seen = []
    loop.call_soon(seen.append, "soon")
    return await future, seen


@case("as_completed gives the fastest first")
async def as_completed():
    async def after(delay, name):
        await asyncio.sleep(delay)
        return name

    return [await one for one in asyncio.as_completed([after(0.02, "slow"), after(0, "fast")])]


@made("an async closure", 5)
def closure():
    factor = 3

    async def call(n):
        return n * factor

    return call


@made("an async lambda by way of a coroutine", 2)
def async_lambda():
    return lambda n: asyncio.run(_soon(n + 1))


@made("a partial of an async function", 1)
def async_partial():
    added = functools.partial(_added, 10)

    async def call(n):
        return await added(n)

    return call


async def _added(a, b):
    return a + b


@case("an async method of a class")
async def methods():
    class Client:
        def __init__(self):
            self.asked = 0

        async def get(self):
            self.asked += 1
            return await _soon(self.asked)

    client = Client()
    return await client.get(), await client.get()


@case("an object with __await__")
async def awaitable():
    class Ready:
        def __await__(self):
            yield from _soon("ready").__await__()
            return "awaited"

    return await Ready()


@case("context variables in tasks")
async def context_variables():
    import contextvars

    name = contextvars.ContextVar("name", default="none")

    async def read(value):
        name.set(value)
        await asyncio.sleep(0)
        return name.get()

    return await asyncio.gather(read("a"), read("b")), name.get()


@case("an asynchronous generator that is closed early")
async def closed_early():
    seen = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            seen.append("closed")

    running = numbers()
    await anext(running)
    await running.aclose()
    return seen


@case("a decorator of async functions", 2)
async def decorated(n):
    def doubled(function):
        @functools.wraps(function)
        async def wrapper(*args):
            return 2 * await function(*args)

        return wrapper

    @doubled
    async def inner(value):
        return await _soon(value)

    return await inner(n), inner.__name__
