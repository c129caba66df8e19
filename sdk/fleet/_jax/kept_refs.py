"""What a result has in place of what was kept on a car's device (``fleet.keep``). No jax: for functions found by name, too.

Errors: ProtocolError for a record that makes no sense.
"""

from __future__ import annotations

from typing import Any, NoReturn

from fleet._jax.dtypes import ML, WIRE
from fleet._ref import Ref
from fleet.protocol.errors import ProtocolError, WrongArguments
from fleet.protocol.messages import ArraySpec, BlobRef

Specs = list[tuple[str, tuple[int, ...]]]
_KEYS = {"ref", "bytes", "arrays"}


def read(record: Any) -> tuple[BlobRef, Specs]:
    """Digest and size of the copy, dtypes and shapes of its arrays."""
    try:
        found = BlobRef(digest=record["ref"], size_bytes=record["bytes"])
        arrays = [ArraySpec(dtype=dtype, shape=shape) for dtype, shape in record["arrays"]]
        specs = [(one.dtype, tuple(int(size) for size in one.shape)) for one in arrays]
    except (TypeError, LookupError, ValueError):
        raise ProtocolError("a result has something else in place of what was kept") from None
    if not {dtype for dtype, _ in specs} <= WIRE | ML:
        raise ProtocolError("what was kept has dtypes that arrays don't have")
    return found, specs


def not_here(ref: Ref[Any]) -> NoReturn:
    """Say why there is no ``.value``."""
    raise WrongArguments(
        f"the value of {ref!r} stayed on a car's device, it isn't here",
        hint="pass the reference to .remote(); what you want to see, return without fleet.keep",
    )


class NamedKeptRef(Ref[Any]):
    """A reference to what a call of a function found by name kept: for other such calls. ``specs``: as for ``ArrayRef``."""

    __slots__ = ("specs",)
    kept = True

    specs: Specs

    def __init__(self, digest: str, size_bytes: int, specs: Specs) -> None:
        super().__init__(digest, size_bytes)
        object.__setattr__(self, "specs", specs)

    @property
    def value(self) -> Any:
        """Always WrongArguments: the value is on a car."""
        not_here(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedKeptRef, (self.digest, self.size_bytes, self.specs)


def with_refs(value: Any) -> Any:
    """The result of a jax function found by name, with references in place of their records.

    All else in such a result is an array, None, or a dict, list or tuple of those: nothing else looks like a record.
    """
    if type(value) is dict:
        if value.keys() == _KEYS and type(value["ref"]) is str:
            found, specs = read(value)
            return NamedKeptRef(found.digest, found.size_bytes, specs)
        return {key: with_refs(one) for key, one in value.items()}
    if type(value) is list or type(value) is tuple:
        return type(value)(map(with_refs, value))
    return value
