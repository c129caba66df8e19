"""References to values that were uploaded once (``fleet.put``). Standard library only: runs in the wasm guest, too.

A reference is pickled as a call of ``load``: in a sandbox that gives the value, anywhere else the reference again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

from fleet.protocol.errors import WrongArguments
from fleet.protocol.units import format_bytes

T = TypeVar("T")

_store: Callable[[str], Any] | None = None
"""In a sandbox: gives the value of a digest."""
_any_made = False
"""Whether this process has references at all: local calls look for some among their arguments only then."""
_NOTHING = object()


class Ref(Generic[T]):
    """A value that the fleet keeps (``fleet.put``): pass it wherever a call takes that value, nested as deep as you like.

    Immutable and small; it may be pickled and used from another process. ``digest`` is the sha256 of the pickled value,
    ``size_bytes`` its size. Two references are equal when their values are.
    """

    __slots__ = ("_value", "digest", "size_bytes")

    digest: str
    size_bytes: int

    def __init__(self, digest: str, size_bytes: int, value: Any = _NOTHING) -> None:
        global _any_made
        _any_made = True
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "size_bytes", size_bytes)
        object.__setattr__(self, "_value", value)

    @property
    def here(self) -> bool:
        """Whether this process has the value itself: the one that put it does."""
        return self._value is not _NOTHING

    @property
    def value(self) -> T:
        """The value, in the process that put it; WrongArguments anywhere else."""
        if self._value is _NOTHING:
            raise WrongArguments(
                f"the value of {self!r} was put by another process, it isn't here",
                hint="pass the reference to .remote(): on a car it becomes the value",
            )
        return self._value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a fleet.Ref can't be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a fleet.Ref can't be changed")

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a fleet.Ref has no attribute {name!r}: it stands for its value in calls, here that is .value"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<fleet.Ref {self.digest[:12]}, {format_bytes(self.size_bytes)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.digest, self.size_bytes)

    def __copy__(self) -> Ref[T]:
        return self

    def __deepcopy__(self, memo: Any) -> Ref[T]:
        return self


def load(digest: str, size_bytes: int) -> Any:
    """What a pickled reference becomes: the value in a sandbox, the reference anywhere else."""
    return Ref(digest, size_bytes) if _store is None else _store(digest)


def install(store: Callable[[str], Any]) -> None:
    """In a sandbox: have references become what ``store`` gives for their digests."""
    global _store
    _store = store


class Put:
    """``fleet.put``: upload a value once, and pass its reference to any number of calls.

    ``table = fleet.put(big)`` pickles ``big`` and uploads it, unless the fleet has these very bytes already. What comes
    back is a ``fleet.Ref`` (of a pytree of arrays, with numbers beside them, one to raw arrays, for functions with
    ``runtime="jax"`` alone): small, and accepted anywhere inside the arguments of a call and in the inputs of ``map``. On a
    car it is the value itself, unpickled once for all calls that share a sandbox: treat it as read-only, like a global of
    a module. It is kept for 8 days from the last call that used it (ResultExpired after that).

    To a type checker the result has the type of the value, because that is what every function's signature asks for, and
    what the function gets. Here it isn't the value: that is ``.value`` of the reference. In a sandbox ``put`` gives the
    value back as it is.

    Errors: WrongArguments for what can't be pickled (or holds another reference), PayloadTooLarge over 256 MiB.
    """

    def __call__(self, value: T) -> T:
        """Upload, and block until it is there."""
        if _store is not None:
            return value
        from fleet import _put

        return _put.put(value)

    async def aio(self, value: T) -> T:
        """The same for asyncio."""
        if _store is not None:
            return value
        from fleet import _put

        return await _put.put_aio(value)

    def __repr__(self) -> str:
        return "fleet.put"


put = Put()


def values_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a call that runs right here: references in them, and in their lists, tuples and dicts, as values.

    What holds no reference is passed on as it is, the very same object.
    """
    if not _any_made:
        return args, kwargs
    return _resolved(args, {}), _resolved(kwargs, {})


def _resolved(value: Any, seen: dict[int, Any]) -> Any:
    kind = type(value)
    if kind is not list and kind is not tuple and kind is not dict:
        return value.value if isinstance(value, Ref) else value
    if id(value) in seen:  # met before, or a cycle: what leads back to itself stays as it is
        return seen[id(value)]
    seen[id(value)] = value
    if kind is dict:
        pairs = {key: _resolved(item, seen) for key, item in value.items()}
        changed = any(pairs[key] is not item for key, item in value.items())
        result: Any = pairs if changed else value
    else:
        items = [_resolved(item, seen) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        result = kind(items) if changed else value
    seen[id(value)] = result
    return result
