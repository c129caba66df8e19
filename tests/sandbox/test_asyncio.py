"""asyncio in a sandbox: everything but the network, signals and processes."""

from __future__ import annotations

import pytest

from tests.sandbox.wasm_bench import Bench


def test_tasks_queues_locks_and_timeouts(bench: Bench) -> None:
    source = """
import asyncio, contextlib, time
async def produce(queue, count):
    for n in range(count):
        await queue.put(n)
        await asyncio.sleep(0.001)
    await queue.put(None)
async def consume(queue, seen):
    while (item := await queue.get()) is not None:
        seen.append(item)
async def ticks(count):
    for n in range(count):
        await asyncio.sleep(0)
        yield n
async def main():
    queue, seen = asyncio.Queue(2), []
    async with asyncio.TaskGroup() as group:
        group.create_task(produce(queue, 5))
        group.create_task(consume(queue, seen))
    lock, order = asyncio.Lock(), []
    async def in_turn(name):
        async with lock:
            order.append(name)
            await asyncio.sleep(0.001)
            order.append(name)
    await asyncio.gather(in_turn("a"), in_turn("b"))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(9)
    late = await asyncio.gather(asyncio.wait_for(asyncio.sleep(9), 0.01), return_exceptions=True)
    done, pending = await asyncio.wait([asyncio.create_task(asyncio.sleep(n)) for n in (0, 9)], return_when="FIRST_COMPLETED")
    [task.cancel() for task in pending]
    first = [await each for each in asyncio.as_completed([asyncio.sleep(0.02, "slow"), asyncio.sleep(0.001, "fast")])]
    event, condition, semaphore = asyncio.Event(), asyncio.Condition(), asyncio.Semaphore(2)
    loop, at = asyncio.get_running_loop(), []
    loop.call_later(0.01, lambda: (at.append("later"), event.set()))
    loop.call_soon_threadsafe(at.append, "soon")
    await event.wait()
    async with condition, semaphore: pass
    shielded = await asyncio.shield(asyncio.sleep(0, "shielded"))
    priority = asyncio.PriorityQueue()
    [priority.put_nowait(n) for n in (3, 1, 2)]
    return (seen, order, type(late[0]).__name__, len(done), first, at, shielded, [priority.get_nowait() for _ in range(3)],
            [n async for n in ticks(3)])
def f():
    before = time.monotonic()
    return asyncio.run(main(), debug=False), time.monotonic() - before < 2
"""
    values, quick = bench.eval(source)
    assert values == (
        [0, 1, 2, 3, 4],
        ["a", "a", "b", "b"],
        "TimeoutError",
        1,
        ["fast", "slow"],
        ["soon", "later"],
        "shielded",
        [1, 2, 3],
        [0, 1, 2],
    )
    assert quick


def test_work_for_threads_is_done_at_once(bench: Bench) -> None:
    source = """
import asyncio, concurrent.futures, contextvars
VAR = contextvars.ContextVar("var", default="outer")
def work(n):
    if n < 0: raise ValueError(n)
    return n * 2, VAR.get()
async def main():
    VAR.set("task")
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        values = [await asyncio.to_thread(work, 1)]
        values += [await loop.run_in_executor(each, work, n) for each, n in ((None, 2), (pool, 3))]
        many = await asyncio.gather(*(loop.run_in_executor(pool, work, n) for n in (4, -1)), return_exceptions=True)
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor())
    return values, many[0], repr(many[1]), await loop.run_in_executor(None, work, 5)
async def f(): return await main()
"""
    values, first, second, last = bench.eval(source)
    assert values == [(2, "task"), (4, "task"), (6, "outer")]
    assert (first, second, last[0]) == ((8, "outer"), "ValueError(-1)", 10)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("await asyncio.Event().wait()", "RuntimeError", "wait forever"),
        ("await asyncio.Queue().get()", "RuntimeError", "wait forever"),
        ("await asyncio.get_running_loop().create_future()", "RuntimeError", "wait forever"),
        ("await asyncio.open_connection('example.com', 80)", "PermissionError", "a sandbox has no network"),
        ("await asyncio.start_server(print, port=0)", "PermissionError", "a sandbox has no network"),
        ("await asyncio.create_subprocess_exec('ls')", "PermissionError", "a sandbox is one process"),
        ("await asyncio.create_subprocess_shell('ls')", "PermissionError", "a sandbox is one process"),
        ("asyncio.get_running_loop().add_signal_handler(2, print)", "NotImplementedError", "no signal reaches"),
        ("asyncio.get_running_loop().add_reader(0, print)", "PermissionError", "a sandbox has no network"),
        ("asyncio.run(asyncio.sleep(0))", "RuntimeError", "cannot be called from a running event loop"),
    ],
)
def test_what_cannot_be_is_an_error_of_one_sentence(bench: Bench, body: str, kind: str, words: str) -> None:
    error = bench.error(f"import asyncio\nasync def f():\n    {body}")
    assert error.type_name == kind and words in error.message, error


def test_every_way_to_a_loop_works(bench: Bench) -> None:
    source = """
import asyncio, warnings
def f():
    for make in (asyncio.new_event_loop, asyncio.SelectorEventLoop, asyncio.EventLoop):
        loop = make()
        assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
        loop.run_until_complete(loop.shutdown_asyncgens()); loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    with asyncio.Runner() as runner:
        assert runner.run(asyncio.sleep(0, 6)) == 6
    assert asyncio.run(asyncio.sleep(0, 7), loop_factory=asyncio.EventLoop) == 7
    return "all"
"""
    assert bench.eval(source) == "all"
    assert bench.desk.lines == []
