"""The SDK against a real broker, control plane and sandboxes: every row of API.md's table."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet.testing import LocalFleet
from tests.integration import sdk_functions as fn
from tests.integration import sdk_helpers

pytestmark = pytest.mark.usefixtures("shared_fleet")
ROOT = Path(__file__).parents[2]


def test_remote_gives_the_value() -> None:
    assert fn.add.remote(1) == 2
    assert fn.add.remote(1, y=5) == 6
    assert fn.double.remote(4) == 8
    assert fn.shout.remote("hey") == "HEY", "the module it imports came along"
    value = {"a": [1, (2, 3.5), {4}], b"b": None}
    assert fn.identity.remote(value) == value
    assert fn.square_point.remote(sdk_helpers.Point(2, 3)) == (4, 9)


def test_from_any_thread_and_any_loop() -> None:
    results: queue.Queue[int] = queue.Queue()
    threads = [threading.Thread(target=lambda x=x: results.put(fn.add.remote(x))) for x in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results.queue) == list(range(1, 9))

    async def several() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fn.add.remote.aio(x)) for x in range(5)]
        return [task.result() for task in tasks]

    assert asyncio.run(several()) == [1, 2, 3, 4, 5]
    assert asyncio.run(several()) == [1, 2, 3, 4, 5], "a second loop"

    async def blocking_inside_a_loop() -> int:
        return fn.add.remote(1)

    assert asyncio.run(blocking_inside_a_loop()) == 2


def test_exceptions_come_back() -> None:
    with pytest.raises(ValueError, match="bad") as builtin:
        fn.fail.remote("builtin")
    notes = "\n".join(builtin.value.__notes__)
    assert "Remote traceback" in notes
    assert 'raise ValueError("bad")' in notes, "the developer's own line"
    with pytest.raises(fn.Refused, match="by me"):
        fn.fail.remote("own")
    with pytest.raises(fleet.RemoteError, match="from inside") as hidden:
        fn.fail.remote("hidden")
    assert hidden.value.type_name.endswith("Hidden")
    with pytest.raises(fleet.ResultNotPortable):
        fn.identity.remote(len)
    with pytest.raises(fleet.CallTimeout):
        fn.too_slow.remote()


def test_nothing_is_sent_that_cannot_run() -> None:
    with pytest.raises(fleet.WrongArguments, match=r"add\(\) missing 1 required positional argument: 'x'"):
        fn.add.remote()  # type: ignore[call-arg]
    with pytest.raises(fleet.WrongArguments, match=r"argument 0 is a _thread.lock"):
        fn.identity.remote(threading.Lock())
    lock = threading.Lock()
    with pytest.raises(fleet.DeployError, match="uses the variable lock"):
        fleet.function(lambda x: lock).remote(1)


def test_retries_and_checkpoints() -> None:
    assert fn.third_time.remote() == 3
    assert fn.from_checkpoint.remote() == {"step": 7}
    with pytest.raises(RuntimeError, match="attempt 1"):
        fn.third_time.with_options(retries=0).remote()


def test_a_call_knows_itself() -> None:
    call = fn.who.spawn()
    call_id, car, attempt = call.result()
    assert (call_id, attempt) == (call.id, 1)
    assert car


def test_large_arguments_and_results() -> None:
    for count in (100_000, 3_000_000, 9_000_000):
        assert fn.length.remote(os.urandom(count)) == count
        assert len(fn.blob.remote(count)) == count


# --- calls that go on by themselves


def test_spawn_and_everything_about_a_call() -> None:
    call = fn.add.spawn(1, 2)
    assert isinstance(call, fleet.Call)
    assert call.result(timeout=60) == 3
    assert call.result() == 3, "a second time"
    assert call.status() == "succeeded"
    assert call.cancel() is False
    again = fleet.Call.from_id(call.id)
    assert again.result(timeout=60) == 3
    assert again.status() == "succeeded"

    async def awaited() -> tuple[int, int]:
        return await fn.add.spawn(5), await (await fn.add.spawn.aio(6))

    assert asyncio.run(awaited()) == (6, 7)


def test_a_failed_call() -> None:
    call = fn.fail.spawn("builtin")
    with pytest.raises(ValueError, match="bad"):
        call.result()
    assert call.status() == "failed"
    with pytest.raises(ValueError, match="bad"):
        fleet.Call.from_id(call.id).result(timeout=60)


def test_a_call_that_nobody_knows() -> None:
    with pytest.raises(fleet.ResultExpired):
        fleet.Call.from_id("0198f0c2b1d27c3e9f1a2b3c4d5e6f70").result(timeout=30)
    with pytest.raises(fleet.ResultExpired):
        fleet.Call.from_id("0198f0c2b1d27c3e9f1a2b3c4d5e6f70").status()


def test_cancel_and_time_out_of_a_wait() -> None:
    call = fn.wait.spawn(25)
    with pytest.raises(TimeoutError, match="it goes on"):
        call.result(timeout=0.2)
    assert call.status() in ("queued", "running")
    assert call.explain()
    assert call.cancel() is True
    with pytest.raises(fleet.CallCancelled):
        call.result(timeout=30)
    assert call.status() == "cancelled"


def test_cancelling_the_task_cancels_the_call(shared_fleet: LocalFleet) -> None:
    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await fn.wait.remote.aio(25)

    asyncio.run(impatient())
    shared_fleet.wait_for(lambda: shared_fleet.platform().running == 0, "the call to be ended")


def test_logs_and_live_output(capfd: pytest.CaptureFixture[str]) -> None:
    with fleet.enable_output():
        call = fn.speak.spawn("good morning")
        assert call.result(timeout=60) == 12
    assert "good morning\n" in capfd.readouterr().err
    assert call.logs() == ["good morning", "aside"]
    assert fn.speak.remote("unheard") == 7
    assert "unheard" not in capfd.readouterr().err


# --- maps


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_map(count: int) -> None:
    assert list(fn.add.map(range(count))) == list(range(1, count + 1))
    assert sorted(fn.add.map(range(count), order_outputs=False)) == list(range(1, count + 1))


def test_map_over_several_iterables_and_starmap() -> None:
    assert list(fn.add.map([1, 2, 3], [10, 20])) == [11, 22]
    assert list(fn.add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert list(fn.add.map(range(10), chunksize=3)) == list(range(1, 11))
    fn.add.for_each(range(10))


def test_map_raises_or_returns_exceptions() -> None:
    with pytest.raises(ValueError, match="item 3"):
        list(fn.fail_on.map(range(100)))
    got = list(fn.fail_on.map(range(6), return_exceptions=True))
    assert got[:3] + got[4:] == [0, 1, 2, 4, 5]
    assert isinstance(got[3], ValueError)
    with pytest.raises(ValueError, match="item 3"):
        fn.fail_on.for_each(range(6))
    fn.fail_on.for_each(range(6), ignore_exceptions=True)


def test_map_is_lazy_and_ends_early() -> None:
    seen = []

    def inputs() -> Iterator[int]:
        for x in itertools.count():
            seen.append(x)
            yield x

    assert list(itertools.islice(fn.add.map(inputs()), 20)) == list(range(1, 21))
    assert len(seen) < 40_000


def test_results_come_while_the_input_waits() -> None:
    asked: queue.Queue[int] = queue.Queue()
    asked.put(1)

    def answers_feed_inputs() -> Iterator[int]:
        while (x := asked.get(timeout=60)) < 5:
            yield x

    got = []
    for value in fn.add.map(answers_feed_inputs()):
        got.append(value)
        asked.put(value)
    assert got == [2, 3, 4, 5]


def test_an_input_that_fails() -> None:
    def inputs() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("no more")

    got: list[int] = []
    with pytest.raises(KeyError, match="no more"):
        got.extend(iter(fn.add.map(inputs())))
    results = fn.add.map(inputs())
    assert [next(results), next(results)] == [2, 3]


def test_map_for_asyncio() -> None:
    async def inputs() -> AsyncIterator[int]:
        for x in range(5):
            await asyncio.sleep(0)
            yield x

    async def collect() -> list[list[int]]:
        return [[x async for x in fn.add.map.aio(source)] for source in (range(5), inputs())]

    assert asyncio.run(collect()) == [[1, 2, 3, 4, 5]] * 2


def test_wrong_inputs_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="chunksize"):
        fn.add.map([1], chunksize=0)
    with pytest.raises(TypeError):
        fn.add.map(3)  # type: ignore[call-overload]
    with pytest.raises(fleet.WrongArguments):
        list(fn.add.map([1], [2], [3]))


def test_spawn_map_is_found_again() -> None:
    group = fn.add.spawn_map(range(500))
    assert list(group.results()) == list(range(1, 501))
    assert group.status() == {"succeeded": 500}
    again = fleet.CallGroup.from_id(group.id)
    assert len(again) == 500
    assert list(again.results()) == list(range(1, 501))
    with pytest.raises(fleet.InvalidOption):
        fleet.CallGroup.from_id("nonsense")


def test_spawn_map_with_errors_and_cancel() -> None:
    got = list(fn.fail_on.spawn_map(range(6)).results(return_exceptions=True))
    assert isinstance(got[3], ValueError)
    assert got[4:] == [4, 5]
    group = fn.wait.spawn_map([25.0] * 4)
    assert group.cancel() >= 1
    assert group.status().get("cancelled") == 4
    ended: list[Any] = list(group.results(return_exceptions=True))
    assert [type(error) for error in ended] == [fleet.CallCancelled] * 4


# --- other processes

SCRIPT = """
import dataclasses, os, sys, time
import fleet

@dataclasses.dataclass
class Job:
    number: int

@fleet.function
def work(job):
    return job.number * 2

@fleet.function
def wait(duration_s):
    time.sleep(duration_s)

{main}
"""


def run_script(folder: Path, main: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT.format(main=main))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False)


def test_a_plain_script_works_without_a_deploy(tmp_path: Path) -> None:
    done = run_script(tmp_path, "if __name__ == '__main__':\n    print(work.remote(Job(4)))")
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr


def test_calls_spawned_at_the_very_end_are_handed_over(tmp_path: Path) -> None:
    done = run_script(tmp_path, "if __name__ == '__main__':\n    print(work.spawn(Job(21)).id)")
    assert done.returncode == 0, done.stderr
    assert fleet.Call.from_id(done.stdout.strip()).result(timeout=60) == 42


def test_after_a_fork(tmp_path: Path) -> None:
    main = """
if __name__ == '__main__':
    assert work.remote(Job(1)) == 2
    child = os.fork()
    if child == 0:
        os._exit(work.remote(Job(4)))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), work.remote(Job(3)))
"""
    done = run_script(tmp_path, main)
    assert done.stdout == "8 6\n", done.stderr


def test_calls_spawned_at_the_end_of_a_child_process(tmp_path: Path) -> None:
    main = """
def child():
    print(work.spawn(Job(21)).id, flush=True)

if __name__ == '__main__':
    import multiprocessing
    work.remote(Job(1))
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
"""
    done = run_script(tmp_path, main)
    assert done.returncode == 0, done.stderr
    assert fleet.Call.from_id(done.stdout.strip()).result(timeout=60) == 42


@pytest.mark.parametrize("running", ["wait.remote(25)", "list(wait.map([25] * 3))"])
def test_ctrl_c_cancels_and_says_so(tmp_path: Path, running: str, shared_fleet: LocalFleet) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(main=f"if __name__ == '__main__':\n    print('begun', flush=True)\n    {running}"))
    with subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        shared_fleet.wait_for(lambda: shared_fleet.platform().running > 0, "the call to run")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "cancelled" in err
    assert "KeyboardInterrupt" in err
    shared_fleet.wait_for(
        lambda: not shared_fleet.platform().running and not shared_fleet.platform().waiting, "nothing to run any more"
    )


# --- deployed functions


def test_deploy_and_call_by_name() -> None:
    from fleet import _client, _deploy

    loaded = _deploy.load_app("tests.integration.sdk_functions", "sdk-test")
    reply = _deploy.deploy(_client.current(), loaded).reply
    assert reply.app_version is not None
    assert set(reply.app_version.functions) >= {"add", "double", "speak"}
    assert _deploy.deploy(_client.current(), loaded).reply.unchanged
    assert fleet.Function.from_name("sdk-test", "add").remote(2, y=3) == 5
    version = reply.app_version.functions["add"]
    assert fleet.Function.from_name("sdk-test", "add", version).remote(2) == 3
    with pytest.raises(fleet.NotDeployed):
        fleet.Function.from_name("sdk-test", "missing").remote()


def test_connect_replaces_the_connection(shared_fleet: LocalFleet) -> None:
    with fleet.connect(shared_fleet.url) as client:
        assert client.url == shared_fleet.url
        assert fn.add.remote(1) == 2
    assert fn.add.remote(2) == 3, "it connects again by itself"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    begun_s = time.monotonic()
    with pytest.raises(fleet.FleetUnavailable, match=r"127\.0\.0\.1:1.*fleet dev"):
        fleet.connect("nats://127.0.0.1:1")
    assert time.monotonic() - begun_s < 3.5
