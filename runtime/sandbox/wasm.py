"""One wasm sandbox in this process: load a program, run its jobs, keep a fresh instance at hand.

A request lies in the guest's memory where the guest said there is room; the response is read where it says it lies
(``window.Window``). Where this process can't see that memory the same bytes go as base64 text, piece by piece.

Measured on the project's machine (p50): warm call of a no-op 25 us; item of a chunk 5 us; 1 MB argument and 1 MB result
1 to 2 ms (without a view of memory 18 ms). A fresh instance takes 5 ms, made ahead by ``prepare``; loading a program into
it and its first call 1 ms more than a warm call. RSS with one warm instance 74 MB, 22 MB of it private.

What the guest says is checked here as what a stranger says: sizes against limits, positions against the job.
Errors: SandboxTrap when the sandbox ended (``load`` again before the next ``run``); BundleDamaged when the program can't
be read. What a function raises is a result, not an error.
"""

from __future__ import annotations

import binascii
import hashlib
import secrets
import struct
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Protocol

from fleet.protocol import limits
from fleet.protocol.errors import ProtocolError, SandboxTrap
from runtime.guest.inside import wire
from runtime.held_values import HeldValues
from runtime.sandbox.engine import Instance, Machine
from runtime.sandbox.window import Window
from runtime.slot_wire import LogLine, SlotJob, SlotProgram, SlotResult

_TELL_BYTES_MAX = {
    wire.ITEMS: limits.PAYLOAD_BYTES_MAX + 8 * limits.CHUNK_ITEMS_MAX,
    wire.LOG: limits.LOG_BYTES_PER_CALL_MAX + 64 * limits.KIB,
    wire.CHECKPOINT: limits.SAVED_BYTES_MAX,
    wire.ITEM: limits.PAYLOAD_BYTES_MAX + limits.KIB,
    wire.CODE: wire.CODE_BYTES_MAX,
}
_ANSWER_BYTES_MAX = limits.PAYLOAD_BYTES_MAX + limits.MIB
_LOG_HEAD = struct.Struct("<dBI")
_LARGE_BYTES = 96 * limits.MIB
_HELD_SHARE = 4
"""Values of ``fleet.put`` that calls don't refer to any more stay in the sandbox as long as all of them, pickled, take no
more than this part of its memory."""
_CODES_BYTES_MAX = 4 * wire.CODE_BYTES_MAX
_MEASURE_S = 0.05
"""A run that took longer may have changed the size of memory enough to look again (0.2 ms)."""


Bytes = bytes | bytearray | memoryview


class BundleDamaged(ProtocolError):
    """The bundle of a program can't be read: fetch it again."""

    code = "bundle_damaged"


class Host(Protocol):
    """What the guest may tell or ask while it runs. Called in the thread that called ``run``."""

    def progress(self, position: int) -> None:
        """Item ``position`` of the job begins now."""

    def items(self, first: int, results: bytes) -> None:
        """Results (``pack_items``) of the items from position ``first`` on; they survive a kill from now on."""

    def log(self, lines: list[LogLine], position: int | None) -> None:
        """Lines that the function printed; ``position`` of the item they belong to, None for a single call."""

    def checkpoint(self, state: bytes) -> None:
        """The function saved its state."""

    def item(self, data: bytes) -> None:
        """What a generator yielded next: result bytes."""

    def credit(self) -> int:
        """Wait until more of what the generator yielded was consumed; how many items more."""
        ...

    def departing(self) -> bool:
        """Whether the owner is about to leave."""
        ...


class WasmSandbox:
    """One sandbox at a time, from one AOT-compiled guest. Not thread-safe: use it from one thread.

    ``aot_path`` was authenticated by the caller. After the constructor and the first ``prepare`` no file is opened any
    more; ``/proc/self/maps`` stays open (close-on-exec).
    """

    def __init__(self, aot_path: str, host: Host) -> None:
        self._host = host
        self._machine = Machine(aot_path, self._tell, self._take, self._give)
        self._spare: _Guest | None = None
        self._guest: _Guest | None = None
        self._old: list[_Guest] = []
        self._loaded = ""
        self._used = False
        self._items = 0
        self._wants_code = False
        self._codes: dict[str, bytes] = {}
        """Program -> its compiled modules. An instance says them once, before it looks at an argument: no argument,
        whatever it makes of that instance, can have a say in what later ones run."""

    def prepare(self) -> None:
        """Make the next fresh instance ready, if none is, and free old ones. Call it while idle."""
        self._free_old()
        if self._spare is None:
            self._spare = _Guest(self._machine)

    def drop(self, digest: str) -> None:
        """Nothing to do: the instances' copies have a limit of their own."""

    def tidy(self) -> None:
        """Give back the memory of instances that nobody uses any more. Call it while idle.

        Whoever changed its program once will change it again: the next instance is made now, not while a call waits.
        """
        if self._old:
            self.prepare()

    def close(self) -> None:
        """Give back the memory of all instances, for a process that goes on. ``load`` makes a new one."""
        self._drop()
        if self._spare is not None:
            self._old.append(self._spare)
            self._spare = None
        self._free_old()

    def load(self, program: SlotProgram, bundle: Bytes, packages: Sequence[Bytes] = ()) -> None:
        """Make ``program`` ready to run: keeps the instance that has it loaded, unless each call wants a fresh one.

        Nothing of the program runs yet. BundleDamaged if the bundle, or one of its packages, can't be read.
        """
        if self._guest is not None and self._loaded == program.key and not (self._used and program.isolation == "call"):
            return
        self._drop()
        if self._old and self._old[-1].measured_bytes(again=True) > _LARGE_BYTES:
            self._free_old()  # Not two of them at once: up to 30 ms, where a small one waits until we are idle.
        guest = self._spare or _Guest(self._machine)
        self._spare = None
        guest.instance.limit(program.memory_bytes)
        module, qualname = program.module.encode(), program.qualname.encode()
        code = self._codes.get(program.key)
        code_bytes = wire.NONE if code is None else len(code)
        head = wire.LOAD_HEAD.pack(len(module), len(qualname), code_bytes, len(bundle), len(packages))
        sizes = struct.pack(f"<{len(packages)}I", *map(len, packages))
        self._guest = guest
        try:
            problem = guest.ask(wire.LOAD, (head, sizes, module, qualname, code or b"", bundle, *packages))
        except BaseException:
            self._drop()
            raise
        if problem:
            self._drop()
            raise BundleDamaged(problem.decode("utf-8", "replace"))
        self._loaded, self._used, self._wants_code = program.key, False, code is None

    def run(self, job: SlotJob) -> SlotResult:
        """Run ``job`` of the loaded program. SandboxTrap if the sandbox ended under it."""
        guest = self._guest
        assert guest is not None and self._loaded == job.program.key, "load the job's program first"
        self._items = 0 if job.items is None else job.items
        self._used = True
        start_s = time.monotonic()
        try:
            if job.refs:
                guest.hold(job.refs, job.program.memory_bytes // _HELD_SHARE)
            request = _request(job)
            if job.stream is not None:
                request.insert(0, wire.STREAM_HEAD.pack(job.stream.skip, job.stream.consumed))
            response = guest.ask(wire.RUN if job.stream is None else wire.STREAM, request)
            run_s = time.monotonic() - start_s
            first, summary_bytes = wire.RESULT_HEAD.unpack_from(response)
            at = wire.RESULT_HEAD.size + summary_bytes
            if at > len(response) or first > self._items:
                raise SandboxTrap("the sandbox ended: its answer makes no sense")
        except BaseException:
            self._drop()
            raise
        summary = response[wire.RESULT_HEAD.size : at].decode("utf-8", "replace")
        return SlotResult(
            result=response[at:],
            first=first,
            summary=summary,
            run_s=run_s,
            memory_bytes=guest.measured_bytes(again=run_s > _MEASURE_S),
        )

    def _drop(self) -> None:
        """Part with the present instance; its memory is given back when idle, or when another one has to go."""
        if self._guest is not None:
            self._free_old()
            self._old.append(self._guest)
        self._guest, self._loaded = None, ""

    def _free_old(self) -> None:
        for old in self._old:
            old.instance.close()
        self._old.clear()

    # --- what the guest says ---

    def _tell(self, what: int, number: int, address: int, size_bytes: int) -> int:
        guest = self._guest
        if guest is None:
            raise SandboxTrap("the sandbox ended: it spoke before it was asked")
        if what == wire.DEPARTING:
            return int(self._host.departing())
        if what == wire.CREDIT:
            return min(self._host.credit(), wire.NONE)
        position = None if number == wire.NONE else number
        if position is not None and position > self._items:
            raise SandboxTrap("the sandbox ended: it named an item that isn't in its job")
        if what == wire.PROGRESS:
            self._host.progress(position or 0)
            return 0
        if size_bytes > _TELL_BYTES_MAX.get(what, 0):
            raise SandboxTrap("the sandbox ended: it said more than is allowed")
        data = guest.heard(address, size_bytes)
        if what == wire.ITEMS:
            self._host.items(number, data)
        elif what == wire.ITEM:
            self._host.item(data)
        elif what == wire.LOG:
            self._host.log(_lines(data), position)
        elif what == wire.CODE:
            self._keep_code(data)
        else:
            self._host.checkpoint(data)
        return 0

    def _keep_code(self, code: bytes) -> None:
        """Keep what an instance says first, and as many programs as there is room for."""
        if not self._wants_code:
            return
        self._wants_code = False
        self._codes[self._loaded] = code
        while sum(map(len, self._codes.values())) > _CODES_BYTES_MAX:
            del self._codes[next(iter(self._codes))]

    def _take(self) -> bytes:
        assert self._guest is not None
        return self._guest.next_piece()

    def _give(self, text: bytes) -> None:
        assert self._guest is not None
        self._guest.add_piece(text)


class _Guest:
    """An instance, and the way bytes take to it and back."""

    def __init__(self, machine: Machine) -> None:
        self.instance: Instance = machine.instantiate(limits.MEMORY_BYTES_MIN)
        self._room_bytes = 0
        self._room = 0
        self._window: Window | None = None
        self._pieces: list[bytes] = []
        self._given: list[bytes] = []
        self._held = HeldValues()
        if machine.windows:
            self._window = self._find_window()
        self.ask(wire.START, ())

    def _find_window(self) -> Window | None:
        """Let the guest keep two digests of numbers of ours, and look where they lie: only one base shows both."""
        signs = []
        for _twice in range(2):
            number = secrets.randbits(32)
            address, size = self.instance.enter(wire.PROBE, number)
            signs.append((address, hashlib.sha256(number.to_bytes(4, "little")).digest()[:size]))
        return Window.find(signs)

    def ask(self, what: int, parts: Sequence[Bytes]) -> bytes:
        """One request, one response."""
        size = sum(map(len, parts))
        self._make_room(size)
        self._given.clear()
        if self._window is not None:
            at = self._room
            for part in parts:
                at += self._window.write(at, part)
        else:
            self._pieces = _pieces(b"".join(parts))
        address, answer_bytes = self.instance.enter(what, size)
        if answer_bytes > _ANSWER_BYTES_MAX:
            raise SandboxTrap("the sandbox ended: its answer is larger than is allowed")
        return self.heard(address, answer_bytes)

    def hold(self, refs: Mapping[str, Bytes], bytes_max: int) -> None:
        """Have it keep these values; others go, the one used longest ago first, if all are more than ``bytes_max``."""
        gone, new = self._held.use({digest: len(data) for digest, data in refs.items()}, bytes_max)
        if gone:
            self.ask(wire.DROP, [bytes.fromhex(digest) for digest in gone])
        for digest in new:
            self.ask(wire.HOLD, (bytes.fromhex(digest), refs[digest]))

    def heard(self, address: int, size_bytes: int) -> bytes:
        """What the guest says lies at ``address``, or has given before."""
        if self._window is not None:
            return self._window.read(address, size_bytes)
        data = b"".join(self._given)
        self._given.clear()
        if len(data) != size_bytes:
            raise SandboxTrap("the sandbox ended: it said less than it promised")
        return data

    def next_piece(self) -> bytes:
        """The next piece of the request, as text."""
        return self._pieces.pop(0) if self._pieces else b""

    def add_piece(self, text: bytes) -> None:
        """The next piece of what the guest says, as text."""
        if sum(map(len, self._given)) > _ANSWER_BYTES_MAX:
            raise SandboxTrap("the sandbox ended: it said more than is allowed")
        self._given.append(binascii.a2b_base64(text))

    def measured_bytes(self, again: bool) -> int:
        """Size of the guest's memory, 0 where it can't be seen."""
        if self._window is None:
            return 0
        if again:
            self._window.measure()
        return self._window.mapped_bytes

    def _make_room(self, size: int) -> None:
        # Room beyond what is kept was freed by the guest as soon as it had read it.
        if self._window is None:
            if not self._room_bytes:
                self._room_bytes = self.instance.room(16, 1) and 16
        elif not self._room_bytes or size > self._room_bytes or self._room_bytes > wire.ROOM_BYTES:
            self._room_bytes = max(size, wire.ROOM_BYTES)
            self._room = self.instance.room(self._room_bytes, 0)


def _pieces(data: bytes) -> list[bytes]:
    return [
        binascii.b2a_base64(data[at : at + wire.PIECE_BYTES], newline=False)
        for at in range(0, len(data), wire.PIECE_BYTES)
    ]


def _request(job: SlotJob) -> list[Bytes]:
    call, car = job.call.encode(), job.car.encode()
    ranges, attempts = job.item_numbers or (), job.item_attempts
    pairs = list(chain(chain.from_iterable(ranges), chain.from_iterable(attempts.items())))
    head = wire.RUN_HEAD.pack(
        job.attempt,
        wire.NONE if job.items is None else job.items,
        job.timeout_s,
        job.exact,
        len(call),
        len(car),
        len(ranges),
        len(attempts),
        wire.NONE if job.checkpoint is None else len(job.checkpoint),
        len(job.args),
    )
    numbers = struct.pack(f"<{len(pairs)}I", *pairs)
    return [b"".join((head, call, car, numbers)), job.checkpoint or b"", job.args]


def _lines(data: bytes) -> list[LogLine]:
    """Log lines as the guest packs them; SandboxTrap for anything else."""
    lines: list[LogLine] = []
    at = 0
    while at < len(data):
        if at + _LOG_HEAD.size > len(data):
            raise SandboxTrap("the sandbox ended: its output makes no sense")
        time_unix_s, stream, size = _LOG_HEAD.unpack_from(data, at)
        at += _LOG_HEAD.size
        text = data[at : at + size].decode("utf-8", "replace")
        lines.append((time_unix_s, 2 if stream == 2 else 1, text))
        at += size
    return lines
