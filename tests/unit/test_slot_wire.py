"""Frames between agent and slot: what goes in comes out, however the stream is cut; a liar is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol import limits
from fleet.protocol.errors import ProtocolError
from runtime import slot_events, slot_wire
from runtime.slot_frames import BODY_BYTES_MAX, FRAME, HEAD_BYTES_MAX, Frame, FrameBuffer
from runtime.slot_page import Page, make_page
from runtime.slot_wire import Kind, Layers, Progress, SlotJob, SlotProgram, SlotResult

PROGRAM = SlotProgram("k" * 64, "pkg.mod", "Cls.method", 256 << 20, "call", "default")


def feed(buffer: FrameBuffer, stream: bytes, cuts: list[int]) -> list[Frame]:
    """Give ``stream`` to the buffer in pieces of at most ``cuts`` bytes (in turn), take what is whole after each."""
    frames = []
    at = turn = 0
    while at < len(stream):
        target = buffer.target()
        count = min(len(target), cuts[turn % len(cuts)], len(stream) - at)
        assert count > 0
        target[:count] = stream[at : at + count]
        target.release()
        buffer.received(count)
        at += count
        turn += 1
        while (taken := buffer.take()) is not None:
            frames.append(taken)
    return frames


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, 5_000, 65_000, 65_536, 70_000, 300_000]), min_size=1, max_size=8),
    cuts=st.lists(st.sampled_from([1, 7, 16, 1000, 65_536, 1 << 20]), min_size=1, max_size=5),
)
def test_frames_survive_any_cut(sizes: list[int], cuts: list[int]) -> None:
    if max(cuts) < 1000:
        cuts = [*cuts, 4096]
    sent = [(f"h{n}".encode(), bytes([n % 251]) * size) for n, size in enumerate(sizes)]
    stream = b"".join(bytes(part) for head, body in sent for part in slot_wire.frame(Kind.DONE, head, [body]))
    received = feed(FrameBuffer(), stream, cuts)
    assert [(f.kind, f.head, bytes(f.body)) for f in received] == [(Kind.DONE, head, body) for head, body in sent]


@pytest.mark.parametrize("sizes", [(HEAD_BYTES_MAX + 1, 0), (0, BODY_BYTES_MAX + 1), (0, 1 << 63)])
def test_a_frame_over_the_limit_is_refused_before_anything_is_allocated(sizes: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        feed(FrameBuffer(), FRAME.pack(Kind.DONE, *sizes), [1000])


def through(buffers: list[slot_wire.Bytes]) -> Frame:
    (received,) = feed(FrameBuffer(), b"".join(map(bytes, buffers)), [1 << 20])
    return received


@pytest.mark.parametrize("checkpoint", [None, b"", b"state" * 30_000])
@pytest.mark.parametrize("args", [b"", b"x", b"y" * 200_000])
def test_a_job_arrives_as_it_was_sent(args: bytes, checkpoint: bytes | None) -> None:
    job = SlotJob(
        job=7, program=PROGRAM, args=args, call="c1", attempt=2, car="car-1", timeout_s=1.5, items=3,
        item_numbers=[(0, 1), (5, 5)], item_attempts={5: 2}, exact=True, checkpoint=checkpoint,
    )  # fmt: skip
    received = slot_wire.parse_run(through(slot_wire.run_frame(job)), PROGRAM, {})
    assert bytes(received.args) == args
    assert (None if received.checkpoint is None else bytes(received.checkpoint)) == checkpoint
    for name in (
        "job",
        "program",
        "call",
        "attempt",
        "car",
        "timeout_s",
        "items",
        "item_numbers",
        "item_attempts",
        "exact",
    ):
        assert getattr(received, name) == getattr(job, name)


def test_a_program_arrives_with_its_bundle() -> None:
    for packages in ([], [b"one", b"", b"two" * 50_000]):
        received = through(slot_wire.load_frame(PROGRAM, b"zip" * 100_000, packages))
        program, bundle, parts = slot_wire.parse_load(received)
        assert program == PROGRAM and bytes(bundle) == b"zip" * 100_000
        assert [bytes(part) for part in parts] == packages


def test_every_event_arrives_as_it_was_sent() -> None:
    lines = [(1.5, 1, "eins"), (2.5, 2, ""), (3.5, 1, "lone \ud800 surrogate")]
    sent = {
        slot_events.Ready(Layers(("landlock",), ("user", "seccomp")), 0.09, 5): slot_events.ready_frame(
            Layers(("landlock",), ("user", "seccomp")), 0.09, 5
        ),
        slot_events.Items(9, 4, b"items"): slot_events.items_frame(9, 4, b"items"),
        slot_events.Checkpoint(9, b"state"): slot_events.checkpoint_frame(9, b"state"),
        slot_events.Done(9, b"r", 3, "ValueError: ü", 0.5, 77): slot_events.done_frame(
            9, SlotResult(b"r", 3, "ValueError: ü", 0.5, 77)
        ),
        slot_events.Trapped(9, None, "stack"): slot_events.trapped_frame(9, None, "stack"),
        slot_events.Trapped(9, 0, "stack"): slot_events.trapped_frame(9, 0, "stack"),
        slot_events.Failed(9, "damaged"): slot_events.failed_frame(9, "damaged"),
    }
    for event, buffers in sent.items():
        assert slot_events.parse(through(buffers)) == event
    log = slot_events.parse(through(slot_events.log_frame(9, 2, lines)))
    assert log == slot_events.LogLines(9, 2, [*lines[:2], (3.5, 1, "lone ? surrogate")])


@settings(max_examples=300, deadline=None)
@given(kind=st.integers(0, 255), head=st.binary(max_size=40), body=st.binary(max_size=60))
def test_nonsense_from_a_slot_is_a_protocol_error_or_harmless(kind: int, head: bytes, body: bytes) -> None:
    try:
        slot_events.parse(Frame(kind, head, body))
    except ProtocolError:
        pass


def test_oversized_logs_and_checkpoints_are_refused() -> None:
    with pytest.raises(ProtocolError):
        slot_events.parse(Frame(Kind.LOG, bytes(12), bytes(2 * limits.LOG_BYTES_PER_CALL_MAX + 1)))
    with pytest.raises(ProtocolError):
        slot_events.parse(Frame(Kind.CHECKPOINT, bytes(8), bytes(limits.SAVED_BYTES_MAX + 1)))


def test_the_page_is_one_for_both_sides() -> None:
    descriptor = make_page()
    agent, slot = Page(descriptor), Page(descriptor)
    assert agent.read_progress() == Progress()
    slot.write_progress(3, None, 1.25)
    assert agent.read_progress() == Progress(3, None, 1.25)
    slot.write_progress(3, 0, 1.5)
    assert agent.read_progress() == Progress(3, 0, 1.5)
    assert not slot.departing
    agent.departing = True
    assert slot.departing
    slot.write_progress(3, 8, float("nan"))
    assert agent.read_progress() == Progress(3, 8, 0.0)


def test_a_page_left_half_written_gives_the_last_good_answer() -> None:
    descriptor = make_page()
    agent, slot = Page(descriptor), Page(descriptor)
    slot.write_progress(3, 1, 1.5)
    assert agent.read_progress() == Progress(3, 1, 1.5)
    words = slot._words
    words[0] += 1  # As a slot leaves it that is killed while it writes.
    words[1] = 99
    assert agent.read_progress() == Progress(3, 1, 1.5)


def test_nobody_can_change_the_size_of_the_page() -> None:
    import os

    descriptor = make_page()
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
