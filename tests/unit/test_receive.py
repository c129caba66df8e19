"""What comes off the socket is the same however it was cut on its way; what is written keeps its order."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterator

import nats.errors
import pytest

from fleet._receive import BUFFER_BYTES, LARGE_BYTES, LINE_BYTES_MAX, Receiver

Message = tuple[int, bytes, bytes, str, bytes]
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Wire(asyncio.Transport):
    """A connection in memory: what is written to it, and a protocol to feed."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.ended = False

    def writelines(self, list_of_data: object) -> None:
        self.written.append(b"".join(list_of_data))  # type: ignore[arg-type]

    def is_closing(self) -> bool:
        return self.ended


def receiver_of() -> tuple[Receiver, list[Message], Wire]:
    got: list[Message] = []

    def on_message(sid: int, subject: bytes, reply: bytes, data: bytes | bytearray, headers: bytes) -> None:
        got.append((sid, subject, reply, hashlib.sha256(data).hexdigest(), headers))

    wire = Wire()
    receiver = Receiver(asyncio.Protocol(), on_message)
    receiver._writer = wire
    return receiver, got, wire


def feed(receiver: Receiver, data: bytes, sizes: Iterator[int]) -> None:
    """As an event loop does: at most what there is room for."""
    at = 0
    while at < len(data):
        room = receiver.get_buffer(-1)
        count = min(len(room), len(data) - at, next(sizes))
        room[:count] = data[at : at + count]
        at += count
        receiver.buffer_updated(count)


def traffic(seed: int) -> tuple[bytes, list[Message], list[bytes]]:
    """Messages of all sizes with lines between them: as bytes, as messages, as lines."""
    random_ = random.Random(seed)
    wire, messages, lines = [], [], []
    sizes = [0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, BUFFER_BYTES - 3, BUFFER_BYTES, 3 * BUFFER_BYTES]
    for number in range(60):
        payload = random_.randbytes(random_.choice([*sizes, random_.randrange(300), random_.randrange(300)]))
        headers = b"" if random_.random() < 0.5 else b"NATS/1.0\r\nA: " + b"x" * random_.choice((1, 4000)) + b"\r\n\r\n"
        reply = random_.choice((b"", b"_INBOX.r.7"))
        words = [b"HMSG" if headers else b"MSG", b"a.subject", str(number).encode(), *([reply] if reply else [])]
        words += [str(len(headers)).encode()] if headers else []
        wire += [b" ".join([*words, str(len(headers) + len(payload)).encode()]), b"\r\n", headers, payload, b"\r\n"]
        messages.append((number, b"a.subject", reply, hashlib.sha256(payload).hexdigest(), headers))
        if random_.random() < 0.3:
            lines.append(random_.choice((b"PING", b"PONG", b"INFO {}", b"+OK", b"-ERR 'Stale Connection'")))
            wire += [lines[-1], b"\r\n"]
    return b"".join(wire), messages, lines


@pytest.mark.parametrize(
    "cut",
    [
        lambda random_: 1 << 30,
        lambda random_: 4096,
        lambda random_: random_.choice((1, 2, 3, 50_000)),
        lambda random_: random_.randrange(1, 200_000),
    ],
    ids=["whole", "even", "tiny", "any"],
)
@pytest.mark.parametrize("seed", [1, 2])
async def test_however_it_is_cut(cut: Callable[[random.Random], int], seed: int) -> None:
    data, messages, lines = traffic(seed)
    receiver, got, _ = receiver_of()
    random_ = random.Random(seed)
    feed(receiver, data, iter(lambda: cut(random_), None))
    assert got == messages
    assert [await receiver.line() for _ in lines] == lines


async def test_what_was_read_before_comes_first() -> None:
    data, messages, _ = traffic(3)
    receiver, got, _ = receiver_of()
    receiver._feed(data[:700_000])
    feed(receiver, data[700_000:], iter(lambda: 10_000, None))
    assert got == messages


@pytest.mark.parametrize("line", [b"MSG a 1 x\r\n", b"HMSG a 1 9 3\r\n", b"MSG a\r\n"])
async def test_what_is_no_message_ends_the_connection(line: bytes) -> None:
    receiver, got, _ = receiver_of()
    feed(receiver, line, iter(lambda: 100, None))
    with pytest.raises(nats.errors.ProtocolError):
        await receiver.line()
    assert got == []


@pytest.mark.parametrize("cut", [7, 1000, BUFFER_BYTES])
async def test_headers_without_measure_cost_their_message_alone(cut: int) -> None:
    """Anybody may publish to whoever listens: a connection that ends would be theirs to end."""
    receiver, got, _ = receiver_of()
    headers = b"NATS/1.0\r\nA: " + b"x" * (LINE_BYTES_MAX + BUFFER_BYTES) + b"\r\n\r\n"
    large = b"HMSG a 1 %d %d\r\n%shi\r\n" % (len(headers), len(headers) + 2, headers)
    feed(receiver, b"MSG a 2 2\r\nhi\r\n" + large + b"MSG a 3 2\r\nhi\r\nPING\r\n", iter(lambda: cut, None))
    assert [sid for sid, *_ in got] == [2, 3]
    assert await receiver.line() == b"PING"


async def test_a_line_without_end_is_refused() -> None:
    receiver, _, _ = receiver_of()
    with pytest.raises(nats.errors.ProtocolError):
        feed(receiver, b"x" * (LINE_BYTES_MAX + BUFFER_BYTES), iter(lambda: 1000, None))
        await receiver.line()


async def test_an_end_is_told_after_the_lines_before_it() -> None:
    receiver, _, wire = receiver_of()
    feed(receiver, b"PING\r\n", iter(lambda: 100, None))
    receiver.connection_lost(ConnectionResetError())
    assert await receiver.line() == b"PING"
    with pytest.raises(ConnectionResetError):
        await receiver.line()
    assert not receiver.send([b"late"]) and wire.written == []


async def test_nothing_is_handed_over_after_a_stop() -> None:
    receiver, got, _ = receiver_of()
    receiver.stop()
    feed(receiver, b"MSG a 1 2\r\nhi\r\n", iter(lambda: 100, None))
    assert got == [] and not receiver.send([b"late"])


async def test_the_first_of_a_turn_is_written_at_once_and_those_behind_it_together() -> None:
    receiver, _, wire = receiver_of()
    assert all(receiver.send([bytes([number]), b"."]) for number in range(4))
    assert wire.written == [b"\0."]
    await asyncio.sleep(0)
    assert wire.written == [b"\0.", b"\1.\2.\3."]
    assert receiver.send([b"next"]) and wire.written[2:] == [b"next"]


async def test_while_too_much_waits_it_is_for_others_to_write() -> None:
    receiver, _, wire = receiver_of()
    receiver._before = asyncio.Protocol()
    assert receiver.send([b"a"]) and receiver.send([b"b"])
    receiver.pause_writing()
    assert not receiver.send([b"c"])
    await asyncio.sleep(0)
    assert wire.written == [b"a", b"b"], "what was taken is written"
    receiver.resume_writing()
    assert receiver.send([b"d"]) and wire.written[-1] == b"d"
