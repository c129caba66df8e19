"""One lease being worked on, and the arithmetic of a chunk's finished items. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fleet.protocol.errors import ProtocolError
from fleet.protocol.lanes import WASM
from fleet.protocol.limits import MIB
from fleet.protocol.messages import Batch, Lease, LeaseGrant, RunOutcome, RunStatus
from fleet.protocol.window import StreamWindow

if TYPE_CHECKING:
    from runtime.weights_cache import WeightsFile

HELD_BYTES_MAX = 512 * MIB
"""Once leases keep more than this in memory, no more are taken until some have ended."""

WAITS_CHECK_S = 0.25
"""The end of a generator moves on while it waits for its consumer: it is looked at this often."""
Bytes = bytes | bytearray | memoryview
Ranges = list[tuple[int, int]]
Key = tuple[int, int]
"""(epoch, counter) of a lease."""


def count_of(ranges: Sequence[tuple[int, int]]) -> int:
    """How many items ``[first, last]`` ranges name."""
    return sum(last - first + 1 for first, last in ranges)


def cut(ranges: Sequence[tuple[int, int]], position: int, count: int) -> Ranges:
    """The ranges of the ``count`` items from ``position`` on, counted through ``ranges`` in order."""
    result: Ranges = []
    for first, last in ranges:
        size = last - first + 1
        if position >= size:
            position -= size
            continue
        taken = min(size - position, count)
        if taken <= 0:
            break
        result.append((first + position, first + position + taken - 1))
        count -= taken
        position = 0
    return result


def items_in(packed: Bytes) -> int:
    """How many items ``frames.pack_items`` packed, without looking at each; ProtocolError for anything else."""
    if len(packed) < 4:
        raise ProtocolError("an item list is cut short")
    count: int = struct.unpack_from("<I", packed)[0]
    if len(packed) < 4 + 4 * count:
        raise ProtocolError("an item list is cut short")
    return count


def sizes_in(packed: Bytes) -> tuple[int, ...]:
    """The size of each packed item in bytes; ProtocolError where they don't add up."""
    count = items_in(packed)
    sizes = struct.unpack_from(f"<{count}I", packed, 4)
    if sum(sizes) != len(packed) - 4 - 4 * count:
        raise ProtocolError("an item list doesn't add up to its length")
    return sizes


def join_items(packed: Sequence[Bytes]) -> bytes:
    """Several item lists as one, without touching single items: counts, then all lengths, then all bodies."""
    if len(packed) == 1:
        return bytes(packed[0])
    counts = [items_in(one) for one in packed]
    views = [memoryview(one) for one in packed]
    lengths = [view[4 : 4 + 4 * count] for view, count in zip(views, counts, strict=True)]
    bodies = [view[4 + 4 * count :] for view, count in zip(views, counts, strict=True)]
    return b"".join((struct.pack("<I", sum(counts)), *lengths, *bodies))


@dataclass(slots=True, eq=False)
class Job:
    """A lease from its grant until its last outcome is in the outbox, or it is dropped or given back."""

    grant: LeaseGrant
    args: Bytes | None = field(repr=False)
    """None: a blob that must be fetched."""
    bundle: Bytes | None = field(repr=False)
    checkpoint: Bytes | None = field(default=None, repr=False)
    packages: list[Bytes] | None = field(default_factory=list, repr=False)
    refs: dict[str, Bytes] | None = field(default_factory=dict, repr=False)
    """Values of ``fleet.put`` that the arguments refer to, by digest. None, as with ``packages``: some must be fetched."""
    weights: dict[str, WeightsFile] | None = field(default_factory=dict, repr=False)
    """Pieces of a jax program's weights, by digest. None: some must be fetched."""
    program_key: str = ""
    lane: str = WASM
    """The lane of this car that it runs in."""
    weight_bytes: int = 0
    """What it keeps in the agent's memory, where that is much."""
    received_s: float = 0.0
    run: int = 0
    """Number of the run on its slot; a new one each time it is sent to one."""
    slot: str | None = None
    started_s: float | None = None
    """When it became the first of its slot."""
    started_unix_s: float = 0.0
    check_s: float = float("inf")
    """Look at its deadline then."""
    kill_s: float = float("inf")
    """Cancelled while it waited behind another: may take until then."""
    cancelled: bool = False
    items: int | None = None
    finished: int = 0
    """Items whose results are here, in order."""
    sent: int = 0
    """Items whose results are in the outbox."""
    buffer: list[Bytes] = field(default_factory=list, repr=False)
    buffer_bytes: int = 0
    partial_s: float = 0.0
    """When the last PARTIAL was made."""
    window: StreamWindow | None = None
    """Of a generator: how far it may run ahead."""
    acked: int = 0
    """Of a generator: items whose results are stored."""
    saved: tuple[int, Bytes] | None = field(default=None, repr=False)
    """Of a generator: its last checkpoint and the items before it. It counts for nothing until they are stored."""
    alone: bool = False
    """It ran with others when its slot ended, or all took too long: next time it runs by itself."""
    joined: tuple[str, int] | None = None
    """Program and size of the batch that it may be part of."""
    kept: list[tuple[str, Bytes]] = field(default_factory=list, repr=False)
    """What its slot keeps of the result: digest and copy."""
    waits_since_s: float | None = None
    """Since when a generator waits for its consumer, as far as is known here."""
    waited_s: float = 0.0

    def __post_init__(self) -> None:
        grant = self.grant
        if grant.stream:
            self.window = StreamWindow(grant.skip, grant.consumed)
        elif grant.item_numbers is not None:
            self.items = count_of(grant.item_numbers)
        if self.batch is not None:
            self.joined = grant.program.bundle, self.batch.max_size
        if grant.refs or grant.blob is not None:
            self.weight_bytes = grant.payload_bytes + sum(ref.size_bytes for ref in grant.refs)

    @property
    def lease(self) -> Lease:
        """The right to run it."""
        return self.grant.lease

    @property
    def key(self) -> Key:
        """What orders and names the lease."""
        return self.grant.lease.epoch, self.grant.lease.counter

    @property
    def batch(self) -> Batch | None:
        """How it runs together with other calls of its program; None: by itself."""
        jax = self.grant.program.jax
        if jax is None or self.items is not None or self.window is not None or self.alone or self.grant.exact:
            return None
        return jax.batch

    @property
    def complete(self) -> bool:
        """Whether it has all it needs to run."""
        return None not in (self.args, self.bundle, self.packages, self.refs, self.weights)

    def rewind(self) -> None:
        """Forget the slot it was on; items that are in the outbox stay done."""
        self.slot, self.started_s, self.run = None, None, 0
        self.kept = []

    def add_items(self, first: int, packed: Bytes) -> None:
        """Take finished items; ProtocolError where they aren't the next ones of this chunk."""
        count = items_in(packed)
        if self.window is not None:
            if first != self.finished or (count and self.window.full):
                raise ProtocolError(
                    f"items from {first} on don't follow {self.finished}, or run ahead of who wants them"
                )
            self.window.add(sizes_in(packed))
        elif self.items is None or first != self.finished or first + count > self.items:
            raise ProtocolError(f"items {first} to {first + count} don't follow {self.finished} of {self.items}")
        if count:
            self.finished += count
            self.buffer.append(packed)
            self.buffer_bytes += len(packed)

    def take_items(self) -> tuple[Ranges, bytes]:
        """Numbers and results of the items that aren't in the outbox yet."""
        if not self.buffer:
            return [], b""
        if self.window is not None:
            numbers = [(self.grant.skip + self.sent, self.grant.skip + self.finished - 1)]
        else:
            assert self.grant.item_numbers is not None, "a single call has no items"
            numbers = cut(self.grant.item_numbers, self.sent, self.finished - self.sent)
        packed = join_items(self.buffer)
        self.sent = self.finished
        self.buffer, self.buffer_bytes = [], 0
        return numbers, packed

    def out_of_time(self, now_s: float, seen_s: float | None) -> bool:
        """Whether this job, the first of its slot, or its present item (begun at ``seen_s``) ran longer than it may.

        Else notes when to look again.
        """
        timeout_s = self.grant.program.timeout_s
        assert self.started_s is not None, "the first job of a slot has a start"
        started_s = self.started_s
        if seen_s is not None and started_s <= seen_s <= now_s:
            started_s = seen_s
        # A guest that only claims to have begun another item gains no more than the chunk's whole time.
        end_s = min(started_s + timeout_s, self.started_s + timeout_s * (self.items or 1))
        waits_s = 0.0 if self.waits_since_s is None else now_s - self.waits_since_s
        end_s += self.waited_s + waits_s
        self.check_s = end_s if self.waits_since_s is None else max(end_s, now_s + WAITS_CHECK_S)
        return now_s >= end_s

    def item_at(self, position: int | None) -> int | None:
        """Number of the item at a position of the chunk, None where the job has no such item."""
        if position is None or self.grant.item_numbers is None or not 0 <= position < (self.items or 0):
            return None
        return cut(self.grant.item_numbers, position, 1)[0][0]

    def culprit(self, position: int | None) -> int | None:
        """Number of the item that was running, None if it isn't known for sure.

        A sandbox reports a new item only when 5 ms have passed since its last report, unless ``exact``: the last report
        alone says little. A chunk with one item left leaves no doubt.
        """
        if self.items is None or self.grant.item_numbers is None:
            return None
        if self.items - self.finished == 1:
            position = self.finished
        elif not self.grant.exact:
            return None
        if position is None or not self.finished <= position < self.items:
            return None
        return cut(self.grant.item_numbers, position, 1)[0][0]

    def outcome(
        self,
        status: RunStatus,
        *,
        unix_s: float,
        done: Ranges | None = None,
        culprit: int | None = None,
        message: str = "",
        summary: str = "",
        run_s: float = 0.0,
        memory_bytes: int = 0,
    ) -> RunOutcome:
        """What came of it. Not validated: it is made of our own values, on the hot path."""
        return RunOutcome.model_construct(
            lease=self.grant.lease, status=status, done=done, message=message, summary=summary, blob=None, blob_bytes=0,
            culprit=culprit, slot=self.slot or "", items=0 if self.window is None else self.grant.skip + self.finished,
            started_unix_s=self.started_unix_s, finished_unix_s=unix_s, run_s=run_s, memory_bytes=memory_bytes,
        )  # fmt: skip
