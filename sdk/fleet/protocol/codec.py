"""Values as data: what leaves a sandbox. A tagged MessagePack profile; decoding never runs code that a car chose.

What can be encoded: None, bool, int, float, complex, str, bytes, bytearray, memoryview, list, tuple, set, frozenset, dict,
deque, Counter, defaultdict (of a builtin type), OrderedDict, range, slice, Ellipsis, datetime and its kin, zones, Decimal,
Fraction, UUID, paths, IP addresses, array, SimpleNamespace, exceptions; members of an Enum; instances of dataclasses,
NamedTuples, attrs classes and pydantic models; numpy arrays and scalars where numpy is imported. Types are matched exactly:
a subclass would come back as something else, so it is refused. An object that is met twice comes back as two.

A class travels as its name, and is looked up by the caller of ``decode`` alone. An exception becomes an ``ExceptionData``.
The format is told in ``_codec.kinds``. Standard library only: ``encode`` runs in the guest, where microseconds count twice.

Bounds:  depth ``CODEC_DEPTH_MAX``, elements ``CODEC_VALUES_MAX``, bytes ``PAYLOAD_BYTES_MAX``; decoding takes at most four
         times the memory of the data, and 16 MiB.
Errors:  ``encode`` raises ResultNotPortable that names the path inside the value; ``decode`` raises ProtocolError for what
         ``encode`` doesn't write, and ResultNotPortable, with the path, for a class that isn't known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleet.protocol._codec import encode_packed as _encode_packed
from fleet.protocol._codec.decode import Decoder, Find, Revive, UnknownClass
from fleet.protocol._codec.encode import encode
from fleet.protocol._codec.exception_data import ExceptionData, describe
from fleet.protocol._codec.kinds import PAD
from fleet.protocol._codec.where import path_to
from fleet.protocol.errors import ProtocolError, ResultNotPortable
from fleet.protocol.limits import KIB

COPY_BYTES_MAX = 256 * KIB
"""Up to this size, slices of bytes are taken: faster than those of a memoryview (1.4 against 2.9 us for a small value).

Copies of larger ones would take from the memory that decoding may use beyond what it counts (1 MiB).
"""
__all__ = ["COPY_BYTES_MAX", "ExceptionData", "decode", "decode_exception", "encode", "encode_exception"]

_encode_packed.install()


def encode_exception(error: BaseException, hide: Callable[[str], bool] | None = None, prefix: bytes = b"") -> bytes:
    """``error`` as data: type, message, arguments where they can travel, traceback text, notes, cause and context.

    ``hide(file_name)`` leaves frames out of the traceback. Never fails for an exception of any kind.
    """
    return encode(describe(error, encode, hide), prefix=prefix)


def decode(
    data: bytes | bytearray | memoryview,
    revive: Revive | None = None,
    find: Find | None = None,
    *,
    records: bool = False,
    name: str = "result",
) -> Any:
    """The value that ``encode`` encoded. Runs no code but ``revive`` and ``find``.

    ``revive`` turns each ``ExceptionData`` inside the value into what the caller wants there. ``find(sort, module,
    qualname)`` gives the class that may be meant, or None; it has to answer from a closed set. ``records`` shows instances
    of unknown classes as ``Record`` instead of refusing them. ``name``: what errors call the value.
    """
    if not isinstance(data, bytes) or len(data) > COPY_BYTES_MAX:
        data = memoryview(data).cast("B")
    decoder = Decoder(data, revive, find, records)
    try:
        value = decoder.value(0)
    except UnknownClass as unknown:
        path = path_to(decoder.data, unknown.at, name)
        raise ResultNotPortable(f"{path} {unknown.sentence}", hint=_UNKNOWN_HINT) from None
    except (ProtocolError, ResultNotPortable):
        raise
    except Exception as error:  # Fields of the wrong type or value, in whatever way that shows.
        said = f"{type(error).__name__}: {error}"[:200] if not isinstance(error, MemoryError) else "MemoryError"
        raise ProtocolError(f"a value is malformed: {said}") from None
    if decoder.at != decoder.size and decoder.data[decoder.at] != PAD:
        raise ProtocolError("data follows behind a value")
    return value


_UNKNOWN_HINT = (
    "name the class in what the function is annotated to return (-> Item), import its module, or return a dict"
)


def decode_exception(data: bytes | bytearray | memoryview, find: Find | None = None) -> ExceptionData:
    """What ``encode_exception`` encoded; ProtocolError for anything else."""
    found = decode(data, find=find)
    if not isinstance(found, ExceptionData):
        raise ProtocolError("an exception was expected")
    return found
