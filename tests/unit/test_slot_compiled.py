"""A slot asks for what was compiled: its pipe while it waits, and what its agent believes of such frames."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fleet.protocol.errors import ProtocolError
from runtime import slot_events, slot_wire
from runtime.slot_frames import FrameBuffer
from runtime.slot_main import Pipe
from runtime.slot_wire import Frame, Kind, Layers, SlotJob, SlotProgram

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Pipe(theirs), ours


def send(end: socket.socket, *frames: list[slot_wire.Bytes]) -> None:
    for one in frames:
        end.sendall(b"".join(bytes(part) for part in one))


def test_what_comes_before_the_answer_is_kept_in_its_order(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, agent = ends
    jobs = [SlotJob(number, SlotProgram("p", "", "f", 1), b"args") for number in (2, 3)]
    send(agent, slot_wire.run_frame(jobs[0]), slot_wire.compiled_frame(OTHER, b"late"), slot_wire.credit_frame(7, 5))
    send(agent, slot_wire.compiled_frame(KEY, b"code"), slot_wire.run_frame(jobs[1]))
    assert pipe.wait_compiled(KEY, 5.0) == b"code"
    received = [pipe.receive(), pipe.receive()]
    assert [slot_wire.parse_run(one, jobs[0].program, {}).job for one in received if one is not None] == [2, 3]
    assert pipe.wait_credit(7) == 5


def test_an_agent_that_is_slow_or_has_nothing_is_not_waited_for(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, agent = ends
    assert pipe.wait_compiled(KEY, 0.001) is None
    send(agent, slot_wire.compiled_frame(KEY, b""))
    assert pipe.wait_compiled(KEY, 5.0) is None
    send(
        agent, slot_wire.compiled_frame(KEY, b"too late"), slot_wire.credit_frame(1, 1), slot_wire.hold_frame("d", b"v")
    )
    received = pipe.receive()
    assert received is not None and received.kind == Kind.HOLD, "an answer that came too late is passed over"
    agent.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        pipe.wait_compiled(KEY, 5.0)


def parsed(buffers: list[slot_wire.Bytes]) -> object:
    buffer = FrameBuffer()
    data = b"".join(bytes(part) for part in buffers)
    buffer.target()[: len(data)] = data
    buffer.received(len(data))
    received = buffer.take()
    assert received is not None
    return slot_events.parse(received)


def test_frames_are_read_as_they_were_written() -> None:
    assert parsed(slot_events.compiled_wanted_frame(3, KEY)) == slot_events.CompiledWanted(3, KEY)
    assert parsed(slot_events.compiled_made_frame(3, KEY, b"code")) == slot_events.CompiledMade(3, KEY, b"code")
    device = {"lane": "jax-cpu", "memory_bytes": 1}
    ready = parsed(slot_events.ready_frame(Layers(("a",), ("b",)), 1.0, 2, device))
    assert ready == slot_events.Ready(Layers(("a",), ("b",)), 1.0, 2, device)
    assert parsed(slot_events.ready_frame(Layers(), 1.0, 2)) == slot_events.Ready(Layers(), 1.0, 2)


@pytest.mark.parametrize(
    "frame",
    [
        slot_events.compiled_wanted_frame(1, "../" + "a" * 61),
        slot_events.compiled_wanted_frame(1, "short"),
        slot_events.compiled_made_frame(1, "\n" * 64, b"x"),
        slot_wire.frame(Kind.COMPILED_WANTED, b"xx"),
        slot_wire.frame(Kind.READY, slot_events.ready_frame(Layers(), 1.0, 2)[0][-20:], [b"[1]"]),  # type: ignore[list-item]
        slot_wire.frame(Kind.READY, slot_events.ready_frame(Layers(), 1.0, 2)[0][-20:], [b"{nonsense"]),  # type: ignore[list-item]
        slot_wire.frame(Kind.READY, slot_events.ready_frame(Layers(), 1.0, 2)[0][-20:], [b"[" * 60_000]),  # type: ignore[list-item]
    ],
)
def test_what_makes_no_sense_is_a_slots_last_word(frame: list[slot_wire.Bytes]) -> None:
    with pytest.raises(ProtocolError):
        parsed(frame)


def test_a_compiled_program_over_the_limit_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_events, "COMPILED_BYTES_MAX", 3)
    with pytest.raises(ProtocolError, match="4 bytes"):
        slot_events.parse(Frame(Kind.COMPILED_MADE, b"\1" + bytes(7) + KEY.encode(), b"code"))
