"""What the client knows of one call (or one chunk of a map) that it waits for. Lives in the client's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fleet._loop import Awaited
from fleet.protocol.errors import FleetError, ProtocolError
from fleet.protocol.messages import OutcomeRecord, SubmitCall

if TYPE_CHECKING:
    from fleet._classes import Classes

OnPart = Callable[["Ticket", OutcomeRecord, bytes | memoryview], None]


class Ticket(Awaited):
    """One call from its submit to its outcome.

    ``on_part`` is called in the loop for every outcome record, once each.
    """

    __slots__ = (
        "accepted", "asked_s", "asking", "call", "classes", "fetching", "final", "foreign", "on_accepted", "on_part", "parts",
        "payload", "poll_s", "refs_put", "renew", "sent", "submit", "unknown",
    )  # fmt: skip

    def __init__(self, call: str, submit: SubmitCall | None = None, payload: bytes | None = None) -> None:
        super().__init__()
        self.call = call
        self.submit = submit
        self.payload = payload
        """Kept until the call is accepted, so that it can be sent again."""
        self.accepted = False
        self.sent = False
        self.final: OutcomeRecord | None = None
        self.fetching: set[int] = set()
        """Parts that are on their way as blobs."""
        self.parts: dict[int, tuple[OutcomeRecord, bytes | memoryview]] = {}
        self.on_part: OnPart | None = None
        self.on_accepted: Callable[[], None] | None = None
        self.renew: Callable[[], bool] | None = None
        """Registers the function again where the platform forgot it; False if it was done before."""
        self.refs_put = False
        """Values that it refers to were put again: once is enough."""
        self.foreign = False
        """Submitted by another process: its outcome isn't pushed here."""
        self.asked_s = self.born_s
        self.asking = False
        self.poll_s = 0.0
        self.unknown = 0
        self.classes: Classes | None = None
        """What its result may be made of, where the function is at hand."""

    def accept(self) -> None:
        """The platform has it: nothing of it is needed here any more."""
        self.accepted = True
        self.payload = None
        if self.on_accepted is not None:
            self.on_accepted()
            self.on_accepted = None

    def take(self, record: OutcomeRecord, part: bytes | memoryview) -> bool:
        """Note one outcome record; whether it was new."""
        if self.done or (record.part in self.parts and not (record.final and self.final is None)):
            return False
        self.accept()
        # Who cancels a call doesn't know how many parts there are: such a record may bear the number of a part.
        number = -1 if record.part in self.parts else record.part
        self.parts[number] = (record, part if self.on_part is None else b"")
        if record.final:
            self.final = record
        if self.on_part is not None:
            self.on_part(self, record, part)
        return True

    @property
    def next_part(self) -> int:
        """The first part not here yet."""
        part = 0
        while part in self.parts:
            part += 1
        return part

    @property
    def complete(self) -> bool:
        """Whether the final record and all parts before it are here."""
        return self.final is not None and len(self.parts) > self.final.part

    @property
    def lacks(self) -> bool:
        """Whether a part went missing on the way."""
        return self.final is not None and not self.complete

    def finish(self, error: FleetError | None = None) -> None:
        """Done: wake whoever waits."""
        wakers = self._end(error)
        if wakers is None:
            return
        if error is None:
            self.accept()
        elif self.on_accepted is not None:
            self.on_accepted()
        for wake in wakers:
            wake()

    def outcome(self) -> Any:
        """The value of a single call that is done; raises what it ended with."""
        from fleet._classes import ANY_OWN
        from fleet._results import Failure, decode_item

        assert self.done, self.call
        if self.error is not None:
            raise self.error
        assert self.final is not None, self.call
        if self.final.error is not None:
            raise self.final.error.to_error()
        data = self.final_bytes()
        if not len(data):
            raise ProtocolError(f"the outcome of call {self.call} is empty")
        value = decode_item(data, self.classes or ANY_OWN)
        if isinstance(value, Failure):
            raise value.error
        if self.classes is None and self.final.kept:  # By its id alone: nobody else makes references of records.
            from fleet._jax.kept_refs import with_refs

            value = with_refs(value)
        return value

    def final_bytes(self) -> bytes | memoryview:
        """The result bytes of the final record, of a call that is done without ``error``."""
        assert self.final is not None, self.call
        return self.parts[self.final.part][1]
