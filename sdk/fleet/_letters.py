"""Read the events in dead letters, on the side of whoever asks for them.

The arguments of a call that an event started were pickled by the platform (``fleet._event.pack_call``). Neither the control
plane nor a client unpickles what others made: this reads with an unpickler that knows two names, those that an event's pickle
needs, both of which only put fields into objects; anything else is refused. Nothing is stored twice for it.
"""

from __future__ import annotations

import base64
import io
import pickle
from datetime import datetime
from typing import Any

from fleet import _event_values
from fleet._event_values import Event
from fleet.protocol import frames, limits
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import DeadLetter, EventHead

_KNOWN = {
    (_event_values.__name__, "_make"): _event_values._make,
    (_event_values.__name__, "HttpRequest"): _event_values.HttpRequest,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an event") from None


def events_of_call(payload: bytes | memoryview) -> list[Event]:
    """The events among the arguments of one call; ProtocolError for arguments that are something else."""
    try:
        arguments = _Reader(io.BytesIO(payload)).load()
        (argument,), keywords = arguments if arguments != ((), {}) else ((None,), {})
    except Exception as error:  # whatever a pickle may raise
        raise ProtocolError(f"the arguments are no event: {error}") from None
    found = argument if isinstance(argument, list) else [] if argument is None else [argument]
    if keywords or not all(type(one) is Event for one in found):
        raise ProtocolError("the arguments are no event")
    return found


def events_of(letter: DeadLetter, payload: bytes | memoryview) -> list[Event]:
    """The events of a letter, in order; none for one that isn't about events. ProtocolError where they can't be read.

    ``payload``: what came with the letter, or the whole blob that it names.
    """
    state = letter.state
    if letter.event is not None:
        head = letter.event
        return [
            _event_values._make(
                head.subject, bytes(payload), head.id, head.source, head.type, _time_of(head), head.datacontenttype,
                head.dataschema, head.extensions,
            )
        ]  # fmt: skip
    if not state.trigger or letter.garbage:
        return []
    if state.items is None:
        return events_of_call(payload)
    items = frames.unpack_items(payload, limits.CHUNK_ITEMS_MAX)
    if state.blob and state.pending is not None:  # it holds all items of the chunk
        numbers = [number for first, last in state.pending for number in range(first, last + 1)]
        if any(number >= len(items) for number in numbers):
            raise ProtocolError("the arguments lack items that the letter names")
        items = [items[number] for number in numbers]
    return [event for item in items for event in events_of_call(item)]


def _time_of(head: EventHead) -> str | None:
    try:
        return head.time and datetime.fromisoformat(head.time).isoformat()
    except ValueError:
        return None


def plain(event: Event) -> dict[str, Any]:
    """An event as JSON shows it: its attributes, and ``data`` as its content type says (``data_base64`` where it is bytes)."""
    shown: dict[str, Any] = {"id": event.id, "source": event.source, "type": event.type, "subject": event.subject}
    if event.time is not None:
        shown["time"] = event.time.isoformat()
    if event.datacontenttype is not None:
        shown["datacontenttype"] = event.datacontenttype
    if event.dataschema is not None:
        shown["dataschema"] = event.dataschema
    shown.update(event.extensions)
    try:
        data = event.data
    except ValueError:
        data = event.body  # its content type lies
    if isinstance(data, bytes):
        shown["data_base64"] = base64.b64encode(data).decode()
    else:
        shown["data"] = data
    return shown
