"""The floor: one JetStream publish, pull and reply by bare nats-py, against the same broker.

A worker process pulls from a work queue (file storage), answers to an inbox, acknowledges. Two ways to pull: nats-py's
``fetch(1)``, which is what its users write, and ``kept``, one standing pull renewed by hand, which is the fastest that
nats-py can do here. This is the one benchmark file that speaks NATS itself: that is what it is for.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

STREAM = "BENCH_FLOOR"
SUBJECT = "benchfloor.call"
PAYLOAD = b"x" * 200
LIVES_S = 3600.0


class Floor:
    """Measures blocks of calls against a worker. Make it with ``floor``."""

    def __init__(self, runner: asyncio.Runner, client: Client) -> None:
        self._runner = runner
        self._client = client
        self._answered: asyncio.Future[bytes] | None = None

    async def listen(self) -> None:
        """Take answers on one inbox."""
        self._inbox = self._client.new_inbox()

        async def on_answer(message: Msg) -> None:
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(message.data)

        await self._client.subscribe(self._inbox, cb=on_answer)
        await self._client.flush()

    def block(self, count: int) -> list[float]:
        """Seconds of each of ``count`` calls, one after the other."""
        return self._runner.run(self._block(count))

    async def _block(self, count: int) -> list[float]:
        jetstream = self._client.jetstream()
        seconds = []
        for _ in range(count):
            self._answered = asyncio.get_running_loop().create_future()
            began = time.perf_counter()
            await jetstream.publish(SUBJECT, PAYLOAD, headers={"r": self._inbox})
            await asyncio.wait_for(self._answered, 10)
            seconds.append(time.perf_counter() - began)
        return seconds


def credentials(data: Path) -> tuple[str, str]:
    """User and password of the control plane: only it may use JetStream."""
    return "control", json.loads((data / "secrets.json").read_text())["control"]


@contextmanager
def floor(url: str, data: Path, way: str) -> Iterator[Floor]:
    """A worker that pulls in this ``way`` ("fetch" or "kept"), and the client that measures it."""
    user, password = credentials(data)
    with asyncio.Runner() as runner:
        client = runner.run(_prepare(url, user, password))
        worker = subprocess.Popen(
            [sys.executable, "-P", __file__, url, user, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(password.encode() + b"\n")
            worker.stdin.flush()
            if worker.stdout.readline() != b"ready\n":
                raise RuntimeError("the worker of the floor did not start")
            made = Floor(runner, client)
            runner.run(made.listen())
            yield made
        finally:
            worker.kill()
            worker.communicate()
            runner.run(_remove(client))


async def _prepare(url: str, user: str, password: str) -> Client:
    client = await nats.connect(url, user=user, password=password)
    config = StreamConfig(
        name=STREAM, subjects=[SUBJECT], retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE
    )
    jetstream = client.jetstream()
    await jetstream.add_stream(config)
    await jetstream.add_consumer(STREAM, ConsumerConfig(durable_name="d", ack_wait=30, filter_subject=SUBJECT))
    return client


async def _remove(client: Client) -> None:
    await client.jetstream().delete_stream(STREAM)
    await client.close()


async def serve_fetch(client: Client) -> None:
    """Pull one message at a time with nats-py's own ``fetch``."""
    subscription = await client.jetstream().pull_subscribe(SUBJECT, durable="d", stream=STREAM)
    print("ready", flush=True)
    while True:
        try:
            messages = await subscription.fetch(1, timeout=5)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            assert message.headers is not None
            await client.publish(message.headers["r"], message.data)
            await message.ack()


async def serve_kept(client: Client) -> None:
    """Pull a thousand at a time on an inbox of our own, and renew the pull halfway."""
    inbox = client.new_inbox()
    left = 0
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.d"
    request = json.dumps({"batch": 1000, "expires": int(LIVES_S * 1e9)}).encode()

    async def on_message(message: Msg) -> None:
        nonlocal left
        if not message.headers or "r" not in message.headers:
            return
        await client.publish(message.headers["r"], message.data)
        await message.ack()
        left -= 1
        if left < 500:
            left += 1000
            await client.publish(pull, request, reply=inbox)

    await client.subscribe(inbox, cb=on_message)
    left += 1000
    await client.publish(pull, request, reply=inbox)
    await client.flush()
    print("ready", flush=True)
    await asyncio.sleep(LIVES_S)


async def serve(url: str, user: str, way: str) -> None:
    """The worker process; its password comes on stdin."""
    client = await nats.connect(url, user=user, password=sys.stdin.readline().strip())
    await (serve_kept(client) if way == "kept" else serve_fetch(client))


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))
