"""Accept calls: check, store on the call's own subject, say "accepted" only after that is acknowledged.

The common case (version known, arguments inline) takes no task: the request's handler publishes, the acknowledgement's
callback tells the dispatcher and answers. All calls of a request are stored at once, not one after another. What must be
waited for before (a live version, a manifest, a blob) goes through a task per call.

Idempotent: a call's subject is published with expected sequence 0. Where something is there already, it is the same call
(same digest: accepted again) or another one (refused). An outcome that exists answers ``done``; it is looked for unless
the request says that its ids are fresh.

When the broker doesn't answer, nobody knows whether a call was stored. Then there is no answer to the request either: the
client asks again with the same ids, which settles it. An answer "unavailable" would end a call that may well run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from fleet.protocol import frames, limits
from fleet.protocol.errors import (
    FleetError,
    FleetUnavailable,
    PayloadTooLarge,
    ProtocolError,
    QueueFull,
    Refused,
    ResultExpired,
)
from fleet.protocol.ids import call_id_unix_s, digest
from fleet.protocol.messages import (
    InvocationState,
    Manifest,
    SubmitCall,
    SubmitReply,
    SubmitRequest,
    SubmitResult,
    WireError,
)
from fleet.protocol.subjects import PARTITION, is_inbox_of
from fleet.transport import Request, Responder
from fnplatform.blobs import BlobStore
from fnplatform.disk import DiskRoom
from fnplatform.dispatcher.wire import invocation_subject
from fnplatform.frontdoor.ports import DispatcherPort, Spawn
from fnplatform.frontdoor.protocols import check_protocol
from fnplatform.frontdoor.records import Records
from fnplatform.frontdoor.share import QueueShare
from fnplatform.group_commit import GroupCommit
from fnplatform.jetstream import StreamFull, WrongSequence
from fnplatform.registry import Registry, check_manifest

log = logging.getLogger("fleet.frontdoor")

FRESH_S_MAX = 60.0
"""A call id older than this isn't fresh, whatever the request says."""
SUBMITS_BYTES_MAX = 256 * limits.MIB
"""Arguments on their way into the queue at one time."""
RACES_MAX = 3


class _Batch:
    """One submit request until all its calls have a result."""

    __slots__ = ("inbox", "left", "request", "results", "size_bytes", "tenant", "unknown")

    def __init__(self, request: Request, tenant: str, inbox: str, count: int) -> None:
        self.request = request
        self.tenant = tenant
        self.inbox = inbox
        self.results: list[SubmitResult | None] = [None] * count
        self.left = count
        self.size_bytes = len(request.data)
        self.unknown = False


def check_arguments(call: SubmitCall, part: memoryview) -> None:
    """PayloadTooLarge, ProtocolError or Refused for arguments that can't be taken as they are."""
    if call.payload_bytes > limits.PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"arguments of {call.payload_bytes} bytes are over the limit of {limits.PAYLOAD_BYTES_MAX} bytes"
        )
    if call.stream and call.items is not None:
        raise ProtocolError("a generator call is no chunk")
    if call.blob:
        if len(part):
            raise ProtocolError("a call whose arguments are a blob carries none inline")
        return
    if len(part) > limits.SUBMIT_INLINE_BYTES_MAX:
        raise PayloadTooLarge(
            f"inline arguments of {len(part)} bytes are over the limit of {limits.SUBMIT_INLINE_BYTES_MAX} bytes",
            hint="put them as a blob first",
        )
    if len(part) != call.payload_bytes or digest(part) != call.digest:
        raise Refused("the arguments don't have their digest", hint="send them again")
    if call.items is not None and len(frames.unpack_items(part, call.items)) != call.items:
        raise ProtocolError(f"the arguments don't hold {call.items} items")


def check_kind(call: SubmitCall, manifest: Manifest) -> None:
    """Refused where one value is asked of a generator function."""
    if manifest.yields and not call.stream:
        name = f"{manifest.app}.{manifest.display_name}"
        raise Refused(f"{name} is a generator function, it has no single result", hint="iterate it with .remote_gen()")


def state_of(
    tenant: str, call: SubmitCall, version: str, manifest: Manifest, inbox: str, unix_s: float
) -> InvocationState:
    """What the queue will hold of a call."""
    items = call.items
    return InvocationState(
        tenant=tenant, call=call.call, app=call.app, function=call.function, version=version, inbox=inbox,
        digest=call.digest, payload_bytes=call.payload_bytes,
        blob=call.blob or call.payload_bytes > limits.INLINE_ARGS_BYTES_MAX,
        submitted_unix_s=unix_s,
        expires_unix_s=None if manifest.queue_timeout_s is None else unix_s + manifest.queue_timeout_s,
        items=items, pending=None if items is None else [(0, items - 1)], group=call.group, refs=call.refs,
        stream=call.stream,
    )  # fmt: skip


class Submitter:
    """The submit verb."""

    def __init__(
        self,
        *,
        queue: GroupCommit,
        responder: Responder,
        registry: Registry,
        blobs: BlobStore,
        records: Records,
        dispatcher: DispatcherPort,
        share: QueueShare,
        disk: DiskRoom,
        spawn: Spawn,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._queue = queue
        self._responder = responder
        self._registry = registry
        self._blobs = blobs
        self._records = records
        self._dispatcher = dispatcher
        self._share = share
        self._disk = disk
        self._spawn = spawn
        self._unix_s = unix_s
        self._bytes = 0

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self._bytes > 0

    def handle(self, request: Request, tenant: str) -> None:
        """Take one request; the reply follows when every call of it has a result."""
        try:
            message, parts = frames.unpack(request.data, SubmitRequest)
            check_protocol(message.protocol)
            if not is_inbox_of(message.inbox, "dev", tenant):
                self._responder.dropped += 1
                raise Refused("outcomes go to an inbox of the caller only")
            if len(parts) != len(message.calls):
                raise ProtocolError(f"{len(message.calls)} calls came with {len(parts)} parts")
            if self._bytes + len(request.data) > SUBMITS_BYTES_MAX:
                raise QueueFull("too many arguments are on their way into the queue at once")
            self._disk.check()
            self._share.take(tenant, len(parts))
        except FleetError as error:
            reply = SubmitReply(error=WireError.of(error))
            self._responder.respond(request, "dev", tenant, frames.pack(reply))
            return
        batch = _Batch(request, tenant, message.inbox, len(parts))
        self._bytes += batch.size_bytes
        now_unix_s = self._unix_s()
        for index, (call, part) in enumerate(zip(message.calls, parts, strict=True)):
            self._one(batch, index, call, part, message.fresh, now_unix_s)

    def _one(
        self, batch: _Batch, index: int, call: SubmitCall, part: memoryview, fresh: bool, now_unix_s: float
    ) -> None:
        try:
            check_arguments(call, part)
        except FleetError as error:
            self._end(batch, index, call.call, error)
            return
        manifest = (
            self._registry.cached(batch.tenant, call.app, call.function, call.version)
            if fresh and call.version is not None and not call.blob and len(part) <= limits.INLINE_ARGS_BYTES_MAX
            else None
        )
        known = not call.refs or all(self._blobs.known_bytes(batch.tenant, ref.digest) is not None for ref in call.refs)
        if manifest is None or not known or not _is_fresh(call.call, now_unix_s):
            self._spawn(self._slow, batch, index, call, part)
            return
        assert call.version is not None
        try:
            check_kind(call, manifest)
            self._check_refs(batch.tenant, call, manifest)
        except FleetError as error:
            self._end(batch, index, call.call, error)
            return
        state = state_of(batch.tenant, call, call.version, manifest, batch.inbox, now_unix_s)
        self._store(batch, index, state, bytes(part))

    async def _slow(self, batch: _Batch, index: int, call: SubmitCall, part: memoryview) -> None:
        """The same for a call of which something must be asked first."""
        tenant = batch.tenant
        try:
            version = call.version or await self._registry.resolve(tenant, call.app, call.function)
            manifest = await self._registry.lookup(tenant, call.app, call.function, version)
            check_manifest(manifest)
            check_kind(call, manifest)
            payload = bytes(part)
            missing = [ref.digest for ref in call.refs if not await self._blobs.renew(tenant, ref.digest)]
            if missing:
                self._end(batch, index, call.call, _refs_expired(missing), refs_missing=missing)
                return
            self._check_refs(tenant, call, manifest)
            if call.blob and not await self._blobs.renew(tenant, call.digest):
                self._end(
                    batch, index, call.call, Refused("the arguments must be put as a blob first"), blob_missing=True
                )
                return
            if not call.blob and len(payload) > limits.INLINE_ARGS_BYTES_MAX:
                await self._blobs.put_whole(tenant, call.digest, payload)
            self._records.remember(tenant, call.call, call.app, call.function)
            final = await self._records.final(tenant, call.call)
        except FleetError as error:
            self._end(batch, index, call.call, error)
            return
        if final is not None:
            if final[0].submit_digest not in ("", call.digest):
                self._end(batch, index, call.call, _other_arguments(call.call))
            else:
                self._end(batch, index, call.call, None, done=True)
            return
        self._store(batch, index, state_of(tenant, call, version, manifest, batch.inbox, self._unix_s()), payload)

    def _check_refs(self, tenant: str, call: SubmitCall, manifest: Manifest) -> None:
        """What a car goes by in planning its memory is true, and has a chance to fit; all of them were renewed."""
        if not call.refs:
            return
        for ref in call.refs:
            if self._blobs.known_bytes(tenant, ref.digest) != ref.size_bytes:
                raise Refused(f"the value {ref.digest[:12]} doesn't have {ref.size_bytes} bytes")
        total_bytes = sum(ref.size_bytes for ref in call.refs)
        memory_bytes = manifest.program.memory_bytes
        if total_bytes > min(limits.REFS_BYTES_MAX, memory_bytes):
            raise PayloadTooLarge(
                f"the values of fleet.put among the arguments have {total_bytes} bytes: the function's sandbox has"
                f" {memory_bytes}, and no call takes more than {limits.REFS_BYTES_MAX}",
                hint="raise memory= of the function, or put smaller values",
            )

    def _store(self, batch: _Batch, index: int, state: InvocationState, payload: bytes, races: int = 0) -> None:
        """Publish; what follows happens when the broker has answered."""
        subject = invocation_subject(state, PARTITION)

        def on_stored(stored: int | FleetError) -> None:
            if isinstance(stored, int):
                self._records.remember(state.tenant, state.call, state.app, state.function)
                self._dispatcher.submit_local(state, stored, payload)
                self._end(batch, index, state.call, None)
            elif isinstance(stored, WrongSequence):
                self._spawn(self._again, batch, index, state, payload, races)
            elif isinstance(stored, StreamFull):
                self._end(batch, index, state.call, QueueFull("the queue is full"))
            else:
                self._end(batch, index, state.call, stored)

        data = frames.pack(state, [b"" if state.blob else payload])
        self._queue.publish_then(subject, data, on_stored, expect_last_subject_seq=0)

    async def _again(self, batch: _Batch, index: int, state: InvocationState, payload: bytes, races: int) -> None:
        """There is a message of this call already, or there was a moment ago."""
        try:
            self._records.remember(state.tenant, state.call, state.app, state.function)
            found = await self._records.queued(state.tenant, state.call)
            if found is not None:
                if found[0].digest != state.digest:
                    self._end(batch, index, state.call, _other_arguments(state.call))
                    return
                self._dispatcher.submit_local(found[0], found[1], found[2])
                self._end(batch, index, state.call, None)
                return
            if await self._records.final(state.tenant, state.call) is not None:
                self._end(batch, index, state.call, None, done=True)
                return
        except FleetError as error:
            self._end(batch, index, state.call, error)
            return
        if races >= RACES_MAX:
            self._end(batch, index, state.call, FleetUnavailable("the queue's state of this call keeps changing"))
            return
        self._store(batch, index, state, payload, races + 1)

    def _end(
        self,
        batch: _Batch,
        index: int,
        call: str,
        error: FleetError | None,
        *,
        done: bool = False,
        blob_missing: bool = False,
        refs_missing: Sequence[str] = (),
    ) -> None:
        """Note the result of one call; answer when it was the last."""
        assert batch.results[index] is None, (call, batch.results[index])
        if error is not None or done:
            self._share.give_back(batch.tenant, 1)
        wire = None if error is None else WireError.of(error)
        batch.results[index] = SubmitResult(
            call=call, error=wire, done=done, blob_missing=blob_missing, refs_missing=list(refs_missing)
        )
        batch.left -= 1
        batch.unknown |= isinstance(error, FleetUnavailable)
        if batch.left:
            return
        self._bytes -= batch.size_bytes
        if batch.unknown:
            log.info("a submit of %d calls stays without an answer: the broker gave none", len(batch.results))
            return
        results = [result for result in batch.results if result is not None]
        assert len(results) == len(batch.results), "every call has a result"
        reply = SubmitReply(results=results)
        self._responder.respond(batch.request, "dev", batch.tenant, frames.pack(reply))


def _is_fresh(call: str, now_unix_s: float) -> bool:
    try:
        return abs(now_unix_s - call_id_unix_s(call)) <= FRESH_S_MAX
    except ValueError:
        return False


def _refs_expired(digests: Sequence[str]) -> ResultExpired:
    which = ", ".join(digest[:12] for digest in digests)
    return ResultExpired(f"values that fleet.put gave are no longer kept: {which}", hint="put them again")


def _other_arguments(call: str) -> Refused:
    return Refused(
        f"call {call} exists with other arguments", hint="make a new call id for a new call", other_arguments=True
    )
