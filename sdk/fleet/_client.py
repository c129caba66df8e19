"""The process's connection to a fleet: one per process, made when it is first needed, made anew after a fork.

Everything of it runs in one background thread (``_loop``); callers hand tickets over and wait.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

import anyio

from fleet import _app, _bundle, _output
from fleet._api import Api
from fleet._blobs import Blobs
from fleet._function import Function
from fleet._loop import LoopThread, Waiter
from fleet._packed import refs_of
from fleet._positions import Positions, StreamTicket
from fleet._publish import Publication, Publisher
from fleet._register import Bound, bind, bind_named, find, lock, register
from fleet._settings import Settings
from fleet._submit import Submitter
from fleet._ticket import Ticket
from fleet.protocol.errors import CallCancelled, FleetError, FleetUnavailable
from fleet.protocol.ids import new_call_id
from fleet.protocol.limits import REQUEST_S, SUBMIT_CALLS_MAX
from fleet.protocol.messages import BlobRef, CallRequest, CancelReply, Message, Reply, SubmitCall
from fleet.protocol.subjects import ApiVerb
from fleet.transport import Bus

R = TypeVar("R", bound=Reply)
T = TypeVar("T")

SPAWNS_UNACCEPTED_MAX = 4096
"""Further spawns wait: what isn't accepted yet exists only in this process."""
EXIT_S = 10.0
CANCEL_S = 2.0


class Client:
    """A connection to one fleet. ``fleet.connect()`` makes one; FleetUnavailable within 3 s when nobody is there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._room = threading.Semaphore(SPAWNS_UNACCEPTED_MAX)
        self._lock = threading.Lock()
        self._incoming: list[Ticket] = []
        self._binding = threading.Lock()
        self._loop = LoopThread()
        self.closed = False
        try:
            self._loop.run(self._connect)
        except BaseException:
            self._loop.stop()
            raise

    async def _connect(self) -> None:
        self.bus = await Bus.connect(
            self.settings.url,
            kind="dev",
            name=self.settings.tenant,
            creds=self.settings.creds,
            on_reconnect=self._reconnected,
        )
        self._api = Api(self.bus, self.settings.tenant)
        self._blobs = Blobs(self._api)
        self._submitter = Submitter(self.bus, self.settings.tenant, self._loop.start, self._blobs.put, self._blobs.get)
        self._positions = Positions(self.bus, self.settings.tenant)
        self._publisher = Publisher(self.bus, self.settings.tenant, self._loop.post, self._loop.loop.call_later)
        await self.bus.listen(f"{self.bus.inbox}.out", self._submitter.on_push)
        await self.bus.listen(f"{self.bus.inbox}.log", _output.on_push)

    def _reconnected(self) -> None:
        self._submitter.on_reconnect()
        self._positions.on_reconnect()

    @property
    def url(self) -> str:
        """Where it is connected to."""
        return self.settings.url

    # --- requests

    def request(
        self, verb: ApiVerb, message: Message, reply: type[R], parts: Sequence[bytes] = (), timeout_s: float = REQUEST_S
    ) -> tuple[R, list[memoryview]]:
        """Ask the frontdoor and block for its reply; raises the reply's error."""
        return self.run(lambda: self._api.ask(verb, message, reply, parts, timeout_s=timeout_s))

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the client's loop and block for it."""
        self._check_open()
        return self._loop.run(work)

    async def run_aio(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the client's loop and await it in the caller's."""
        self._check_open()
        return await self._loop.run_aio(work)

    @property
    def api(self) -> Api:
        """Requests from inside the loop (``run``)."""
        return self._api

    @property
    def blobs(self) -> Blobs:
        """Large payloads, from inside the loop (``run``)."""
        return self._blobs

    def _check_open(self) -> None:
        if self.closed or not self._loop.alive:
            raise FleetUnavailable(f"the connection to {self.url} is closed", hint="connect again: fleet.connect()")

    # --- functions

    def bound(self, function: Function[Any, Any]) -> Bound:
        """The function as registered at this fleet; registers it when this client sees it for the first time."""
        known = self._known(function)
        if known is not None:
            return known
        lock(function)  # What may take long doesn't keep other functions waiting.
        if function._ref is not None:
            bound = bind_named(self, function, self.run(lambda: find(self._api, function)))
            function.__dict__["_bound"] = bound
            return bound
        with self._binding:
            bound = bind(self, function)
            self.run(lambda: register(self._api, self._blobs, bound))
        function.__dict__["_bound"] = bound
        return bound

    def _known(self, function: Function[Any, Any]) -> Bound | None:
        known = function.__dict__.get("_bound")
        return known if isinstance(known, Bound) and known.client is self and not known.is_stale() else None

    def register(self, bound: Bound) -> None:
        """Register one version of a function; blocks."""
        self.run(lambda: register(self._api, self._blobs, bound))

    async def bound_aio(self, function: Function[Any, Any]) -> Bound:
        """The same without blocking the caller's loop on the network."""
        known = self._known(function)
        if known is not None:
            return known
        if function.options.packages:
            await asyncio.to_thread(lock, function)
        if function._ref is not None:
            bound = bind_named(self, function, await self.run_aio(lambda: find(self._api, function)))
        else:
            bound = bind(self, function)
            await self.run_aio(lambda: register(self._api, self._blobs, bound))
        function.__dict__["_bound"] = bound
        return bound

    # --- calls

    def ticket_of(
        self, bound: Bound, payload: bytes, items: int | None = None, group: str | None = None, call: str | None = None,
        stream: bool = False,
    ) -> Ticket:  # fmt: skip
        """A call or chunk with its arguments packed already; for ``stream`` a StreamTicket."""
        submit = SubmitCall(
            call=call or new_call_id(),
            app=bound.app,
            function=bound.function,
            version=bound.version,
            digest=hashlib.sha256(payload).hexdigest(),
            payload_bytes=len(payload),
            items=items,
            group=group,
            stream=stream,
            refs=[BlobRef(digest=ref.digest, size_bytes=ref.size_bytes) for ref in refs_of(payload).values()],
        )
        ticket = (StreamTicket if stream else Ticket)(submit.call, submit, payload)
        ticket.classes = bound.classes
        if bound.manifest is not None:
            ticket.renew = lambda: self._renew(ticket, bound)
        return ticket

    def tell_position(self, ticket: StreamTicket) -> None:
        """Its caller begins, or took much more (``ticket.consumed``); from any thread."""
        if self._loop.alive:
            self._loop.post(self._positions.tell, ticket)

    def submit(self, ticket: Ticket) -> None:
        """Hand a ticket over to the loop, from any thread. What comes close together shares a request."""
        self._check_open()
        with self._lock:
            self._incoming.append(ticket)
            first = len(self._incoming) == 1
        if first:
            self._loop.post(self._take_incoming)

    def submit_spawned(self, ticket: Ticket) -> None:
        """As ``submit``; waits while too many spawned calls aren't accepted yet."""
        self._room.acquire()
        ticket.on_accepted = self._room.release
        self.submit(ticket)

    def has_room(self) -> bool:
        """Whether ``submit_spawned`` would not wait now."""
        if self._room.acquire(blocking=False):
            self._room.release()
            return True
        return False

    def publish(self, publication: Publication) -> None:
        """Hand an event over to the loop, from any thread."""
        self._check_open()
        self._publisher.hand_over(publication)

    def watch(self, ticket: Ticket) -> None:
        """Follow a call that another process submitted."""
        self._check_open()
        self._loop.post(self._submitter.watch, ticket)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """From inside the loop: have ``call`` called after ``delay_s``."""
        self._loop.loop.call_later(delay_s, call)

    def _take_incoming(self) -> None:
        with self._lock:
            tickets, self._incoming = self._incoming, []
        self._submitter.submit(tickets)

    def _renew(self, ticket: Ticket, bound: Bound) -> bool:
        """The platform doesn't know the version (any more): register it once again, then submit again."""
        ticket.renew = None
        self._loop.start(self._renew_and_submit, ticket, bound)
        return True

    async def _renew_and_submit(self, ticket: Ticket, bound: Bound) -> None:
        try:
            version = await register(self._api, self._blobs, bound)
        except FleetError as error:
            self._submitter.forget(ticket, error)
            return
        assert ticket.submit is not None
        ticket.submit = ticket.submit.model_copy(update={"version": version})
        self._submitter.submit([ticket])

    async def cancel(self, calls: list[str], group: str | None = None) -> list[str]:
        """From inside the loop: end calls; the ids of those that this ended. Waits for their submit first."""
        mine = {ticket.call for ticket in self._submitter.unaccepted}.intersection(calls)
        with anyio.move_on_after(REQUEST_S):
            while mine.intersection(ticket.call for ticket in self._submitter.unaccepted):
                await anyio.sleep(0.01)
        reply, _ = await self._api.ask(ApiVerb.CANCEL, CallRequest(calls=calls, group=group), CancelReply)
        return list(reply.cancelled)

    def abandon(self, tickets: list[Ticket], what: str) -> None:
        """After Ctrl-C: cancel ``tickets`` within CANCEL_S and say so on stderr."""
        said = f"cancelled {what}"
        waiter = Waiter()
        try:
            self._loop.post(self._loop.group.start_soon, self._cancel_tickets, tickets, waiter)
            if not waiter.wait(CANCEL_S):
                said = f"tried to cancel {what}, but the fleet does not answer"
        except RuntimeError:  # the loop has ended
            said = f"could not cancel {what}: the connection is closed"
        print(said, file=sys.stderr)

    def cancel_soon(self, tickets: list[Ticket]) -> None:
        """Cancel without waiting for it."""
        if tickets and self._loop.alive:
            self._loop.post(self._loop.group.start_soon, self._cancel_tickets, tickets, Waiter())

    async def _cancel_tickets(self, tickets: list[Ticket], waiter: Waiter) -> None:
        error = CallCancelled("cancelled by its caller", hint="")
        for ticket in tickets:
            if not ticket.sent:
                self._submitter.forget(ticket, error)
        calls = [ticket.call for ticket in tickets if not ticket.done]
        try:
            for start in range(0, len(calls), SUBMIT_CALLS_MAX):
                await self.cancel(calls[start : start + SUBMIT_CALLS_MAX])
        except FleetError:
            return  # nobody there to cancel it: the waiter runs into its time limit, and that is said
        finally:
            for ticket in tickets:
                self._submitter.forget(ticket, error)
        waiter.set()

    # --- the end

    def flush(self, timeout_s: float = EXIT_S) -> int:
        """Wait until all submitted calls are accepted; how many are not after ``timeout_s``."""
        until_s = time.monotonic() + timeout_s

        async def wait() -> int:
            while self._submitter.unaccepted and time.monotonic() < until_s:
                await anyio.sleep(0.005)
            return len(self._submitter.unaccepted)

        return self.run(wait)

    def close(self) -> None:
        """Hand over what was spawned, then disconnect. Never raises."""
        if self.closed:
            return
        try:
            self.cancel_soon(self._positions.open)  # nobody will iterate them any more
            lost = self.flush()
            if lost:
                print(f"fleet: {lost} spawned calls were not accepted before the end", file=sys.stderr)
            self.closed = True
            self._loop.run(self.bus.close)
        except (FleetError, RuntimeError):
            pass  # nothing there to be told
        finally:
            self.closed = True
            self._loop.stop()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_default: Client | None = None
_default_lock = threading.Lock()
_abandoned: list[Client] = []
"""Clients of the parent process: kept, so that a fork doesn't run their destructors."""


def current() -> Client:
    """The process's client; connects where there is none. FleetUnavailable within 3 s when nobody is there."""
    global _default
    client = _default
    if client is not None and not client.closed:
        return client
    with _default_lock:
        if _default is None or _default.closed:
            _default = Client(Settings.resolve())
            _hand_over_at_exit()
        return _default


def _hand_over_at_exit() -> None:
    """Children of multiprocessing end without atexit: what they spawned last would never be handed over."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, disconnect, exitpriority=0)


def connect(url: str | None = None, *, creds: str | None = None, app: str | None = None) -> Client:
    """Connect this process to a fleet: what isn't given comes from FLEET_URL, FLEET_CREDS, FLEET_APP, else the defaults.

    Replaces an earlier connection. FleetUnavailable within 3 s when nobody is there.
    """
    global _default
    client = Client(Settings.resolve(url, creds, app))
    if app is not None:
        _app.set_default_app(app)
    with _default_lock:
        before, _default = _default, client
    if before is not None:
        before.close()
    return client


def disconnect() -> None:
    """Close the process's client, if there is one; the next call connects anew."""
    global _default
    with _default_lock:
        before, _default = _default, None
    if before is not None:
        before.close()


def _after_fork() -> None:
    """In the child: the connection and its thread belong to the parent."""
    global _default, _default_lock
    if _default is not None:
        _abandoned.append(_default)
    _default = None
    _default_lock = threading.Lock()
    _bundle.forget_locks()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(disconnect)
