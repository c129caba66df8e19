"""Arguments as pickles that only a sandbox ever loads.

Classes and functions travel by name where the sandbox has them, else as source (``_portable``).
Errors: WrongArguments that names the path to what can't travel, PayloadTooLarge.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from fleet._packed import packed
from fleet._portable.blame import REFUSALS, Part, sentence
from fleet._portable.pickler import PROTOCOL, Session
from fleet._portable.world import World
from fleet._ref import Ref
from fleet.protocol.errors import FleetError, PayloadTooLarge, WrongArguments
from fleet.protocol.ids import digest
from fleet.protocol.limits import PAYLOAD_BYTES_MAX
from fleet.protocol.units import format_bytes

_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})


class ArgumentPickler:
    """Pickles arguments for one function.

    ``modules``: what its bundle holds; None: unknown, it was found by name. ``members``: the functions and classes that
    its program holds by value, in their order: arguments refer to those by number. ``tops``: top-level names that its
    packages make importable. A class that travels by value is captured when it first does.
    """

    def __init__(self, modules: frozenset[str] | None, members: Iterable[Any] = (), tops: Iterable[str] = ()) -> None:
        self._world = World(modules, tops)
        self._members = list(members)  # also keeps them alive: they are known by their id
        self._known: dict[int, tuple[str, int, bytes | None]] = {
            id(one): ("", number, None) for number, one in enumerate(self._members)
        }
        self._lock = threading.RLock()
        self.classes: dict[tuple[str, str], type] = {
            (one.__module__, one.__qualname__): one for one in self._members if isinstance(one, type)
        }
        """Classes that travelled by value, by module and qualified name."""

    def dumps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The pickle of ``(args, kwargs)``."""
        for value in args:
            if type(value) not in _PLAIN:
                break
        else:
            if not kwargs:
                return _bounded(pickle.dumps((args, {}), PROTOCOL))
        try:
            return _bounded(self._dump((args, kwargs)))
        except (*REFUSALS, pickle.PicklingError) as error:
            if isinstance(error, FleetError):
                raise
            parts = [Part(f"argument {index}", value) for index, value in enumerate(args)]
            parts += [Part(f"argument {name}", value) for name, value in kwargs.items()]
            said, hint = sentence(parts, error, self._fails)
            raise WrongArguments(said, hint=hint) from None

    def _dump(self, value: Any) -> bytes:
        refs: dict[str, Ref[Any]] = {}
        data = Session(self._world, self._known, numbered=False, late=self._late, refs=refs).dumps(value)
        return packed(data, refs)

    def _fails(self, value: Any) -> Exception | None:
        try:
            self._dump(value)
        except Exception as error:  # whatever a __reduce__ of the developer raises
            return error
        return None

    def _late(self, cls: type) -> tuple[str, int, bytes | None]:
        """A class that the program doesn't hold: pickled once, with what it refers to, as a group of its own."""
        with self._lock:
            known = self._known.get(id(cls))
            if known is None:
                session = Session(self._world, self._known, numbered=True)
                data = session.dumps(cls)
                group = digest(data)
                for number, one in enumerate(session.members):
                    if isinstance(one, type):
                        self._members.append(one)
                        self._known[id(one)] = (group, number, data)
                self.classes.update(session.classes)
                known = self._known[id(cls)]
        return known


def _bounded(data: bytes) -> bytes:
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"the arguments have {format_bytes(len(data))}, the limit is {format_bytes(PAYLOAD_BYTES_MAX)}",
            hint="split them over several calls",
        )
    return data
