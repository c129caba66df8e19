"""Threads, executors, locks and processes where there is one thread in one process."""

from __future__ import annotations

import pytest

from tests.sandbox.wasm_bench import Bench


def test_a_thread_pool_does_the_work_at_once(bench: Bench) -> None:
    source = """
import concurrent.futures as cf, contextvars, logging, threading
VAR = contextvars.ContextVar("var", default=0)
ready = []
def work(n):
    VAR.set(VAR.get() + 1)
    if n == 3: raise KeyError(n)
    return n * n, VAR.get()
def refuse(): raise OSError("not today")
def f():
    with cf.ThreadPoolExecutor(max_workers=4, initializer=ready.append, initargs=("once",)) as pool:
        futures = {pool.submit(work, n): n for n in range(5)}
        done, pending = cf.wait(futures)
        values = {futures[each]: each.result() if not each.exception() else repr(each.exception())
                  for each in cf.as_completed(futures, timeout=5)}
        mapped = [*pool.map(pow, range(5), range(5))]
        nested = pool.submit(lambda: pool.submit(work, 2).result()).result()
        called = []
        pool.submit(work, 1).add_done_callback(lambda each: called.append(each.done()))
        try: [*pool.map(work, [3])]
        except KeyError as error: raised = str(error)
    try: pool.submit(work, 1)
    except RuntimeError as error: after = str(error)
    broken = cf.ThreadPoolExecutor(initializer=refuse)
    first = broken.submit(work, 1).exception()
    try: broken.submit(work, 1)
    except cf.thread.BrokenThreadPool as error: second = str(error)
    cancelled = cf.Future(); cancelled.cancel()
    return (values, len(done), len(pending), mapped, nested, called, raised, after, ready, type(first).__name__, second,
            VAR.get(), threading.current_thread().name, threading.active_count())
"""
    assert bench.eval(source) == (
        {0: (0, 1), 1: (1, 1), 2: (4, 1), 3: "KeyError(3)", 4: (16, 1)},
        5,
        0,
        [1, 1, 4, 27, 256],
        (4, 1),
        [True],
        "3",
        "cannot schedule new futures after shutdown",
        ["once"],
        "BrokenThreadPool",
        "A thread initializer failed, the thread pool is not usable anymore",
        0,
        "MainThread",
        1,
    )
    assert any("not today" in text for _position, _stream, text in bench.desk.lines), (
        "the initializer's error is logged"
    )


def test_locks_and_queues_work_in_one_thread(bench: Bench) -> None:
    source = """
import multiprocessing, queue, sched, threading, time
def f():
    lock, again, event, once = threading.Lock(), threading.RLock(), threading.Event(), threading.local()
    with lock:
        assert lock.locked() and not lock.acquire(blocking=False) and not lock.acquire(timeout=0.001)
    assert not lock.locked()
    with again, again: pass
    once.value = 1
    before = time.monotonic()
    assert not event.wait(0.05) and time.monotonic() - before >= 0.05
    event.set()
    assert event.wait()
    condition = threading.Condition()
    with condition:
        assert condition.wait_for(lambda: True) and not condition.wait(0.001)
        condition.notify_all()
    semaphore = threading.BoundedSemaphore(1)
    with semaphore: assert not semaphore.acquire(blocking=False)
    items = queue.Queue(2)
    items.put(1); items.put(2)
    assert items.full() and items.get() == 1 and items.get_nowait() == 2
    for empty in (items, queue.SimpleQueue(), queue.LifoQueue(), queue.PriorityQueue()):
        try: empty.get(timeout=0.001)
        except queue.Empty: continue
        raise AssertionError(empty)
    threading.Barrier(1).wait()
    with multiprocessing.Lock(), multiprocessing.get_context("spawn").RLock(): pass
    assert not multiprocessing.Event().is_set() and multiprocessing.cpu_count() == 1
    rounds, scheduler = [], sched.scheduler()
    for n in (2, 1): scheduler.enter(n / 1000, 1, rounds.append, (n,))
    scheduler.run()
    thread = threading.Thread(target=rounds.append, args=(3,))
    thread.run()
    return rounds, isinstance(lock, threading.Lock), threading.current_thread() is threading.main_thread()
"""
    assert bench.eval(source) == ([1, 2, 3], True, True)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("threading.Thread(target=print).start()", "RuntimeError", "a sandbox has one thread"),
        ("threading.Timer(1, print).start()", "RuntimeError", "a sandbox has one thread"),
        ("import _thread; _thread.start_new_thread(print, ())", "RuntimeError", "a sandbox has one thread"),
        ("multiprocessing.pool.ThreadPool(2)", "RuntimeError", "a sandbox has one thread"),
        ("logging.handlers.QueueListener(queue.Queue()).start()", "RuntimeError", "a sandbox has one thread"),
        ("lock = threading.Lock(); lock.acquire(); lock.acquire()", "RuntimeError", "would wait forever"),
        ("threading.Event().wait()", "RuntimeError", "would wait forever"),
        ("queue.Queue().get()", "RuntimeError", "would wait forever"),
        ("queue.SimpleQueue().get()", "RuntimeError", "would wait forever"),
        ("q = queue.Queue(1); q.put(1); q.put(2)", "RuntimeError", "would wait forever"),
        ("threading.Semaphore(0).acquire()", "RuntimeError", "would wait forever"),
        ("threading.Barrier(2).wait()", "RuntimeError", "would wait forever"),
        ("concurrent.futures.Future().result()", "RuntimeError", "would wait forever"),
        ("threading.Lock().release()", "RuntimeError", "release unlocked lock"),
        ("concurrent.futures.ProcessPoolExecutor()", "RuntimeError", "a sandbox is one process"),
        ("multiprocessing.Pool(2)", "RuntimeError", "a sandbox is one process"),
        ("multiprocessing.Process(target=print).start()", "RuntimeError", "a sandbox is one process"),
        ("multiprocessing.Queue()", "RuntimeError", "a sandbox is one process"),
        ("multiprocessing.get_context('spawn').Manager()", "RuntimeError", "a sandbox is one process"),
        ("subprocess.run(['ls'])", "PermissionError", "a sandbox is one process"),
        ("subprocess.check_output('ls', shell=True)", "PermissionError", "a sandbox is one process"),
        ("os.popen('ls')", "PermissionError", "a sandbox is one process"),
        ("os.system('ls')", "AttributeError", "a sandbox is one process"),
        ("os.fork()", "AttributeError", "a sandbox is one process"),
        ("os.nothing()", "AttributeError", "module 'os' has no attribute 'nothing'"),
        ("signal.alarm(1)", "AttributeError", "no signal reaches a sandbox"),
        ("breakpoint()", "RuntimeError", "there is no terminal"),
        ("input()", "EOFError", "EOF when reading a line"),
    ],
)
def test_what_cannot_be_is_an_error_of_one_sentence(bench: Bench, body: str, kind: str, words: str) -> None:
    imports = (
        "import concurrent.futures, logging.handlers, multiprocessing.pool, os, queue, signal, subprocess, threading"
    )
    program = bench.load(f"{imports}\ndef f():\n    {body}")
    for _twice in range(2):
        error = bench.raised(program)
        assert error.type_name == kind and words in error.message, error


def test_feature_tests_get_a_true_answer(bench: Bench) -> None:
    source = """
import os, signal
def f():
    try:
        from os import fork
    except ImportError as error:
        words = str(error)
    return [hasattr(os, name) for name in ("fork", "kill", "getuid", "getcwd")], getattr(signal, "alarm", None), words
"""
    found, alarm, words = bench.eval(source)
    assert (found, alarm) == ([False, False, False, True], None) and "fork" in words
