"""``fleet.put`` towards the platform: pickle, upload, refer to; and put again what was no longer kept."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import sys
from typing import Any, TypeVar, cast

from fleet import _call
from fleet._packed import refs_of
from fleet._portable.arguments import ArgumentPickler
from fleet._ref import Ref
from fleet.protocol.errors import PayloadTooLarge, ResultExpired, WrongArguments

T = TypeVar("T")
_FOR_ARRAYS = (
    'pass .tolist(); for functions with runtime="jax" put nothing but arrays and numbers, in dicts, lists and tuples '
    "(random keys as jax.random.key_data)"
)


def put(value: T) -> T:
    """See ``fleet.put``."""
    data, ref = _pickled(value)
    client = _call._client()
    client.run(lambda: client.blobs.put(ref.digest, data))
    return cast(T, ref)


async def put_aio(value: T) -> T:
    """See ``fleet.put.aio``. Pickling runs in a thread: a large value mustn't stop the caller's loop."""
    data, ref = await asyncio.to_thread(_pickled, value)
    client = await _call._client_aio()
    await client.run_aio(lambda: client.blobs.put(ref.digest, data))
    return cast(T, ref)


def put_again(ref: Ref[Any]) -> bytes:
    """The bytes of a value that the fleet no longer has; ResultExpired where this process can't make them."""
    why = ""
    if ref.here:
        try:
            data = _again(ref)
        except Exception as error:  # whatever a __reduce__ of the developer raises
            why = f", and can't be pickled any more: {error}"
        else:
            if hashlib.sha256(data).hexdigest() == ref.digest:
                return data
            why = ", and it was changed here meanwhile"
    hint = "put it again: fleet.put(value)"
    if getattr(type(ref), "kept", False):
        hint = "what fleet.keep keeps lives for an hour after its last use: make it again by the call that made it"
    raise ResultExpired(f"the value that {ref!r} stands for is no longer kept{why}", hint=hint)


def _again(ref: Ref[Any]) -> bytes:
    """The bytes of a value that is here, in the form that it was put in."""
    again = getattr(
        type(ref), "again", None
    )  # that of ``_jax.stored.StoredRef``: references pretend to have no attributes
    made: bytes = _pickled(ref.value)[0] if again is None else again.fget(ref)()
    return made


def _pickled(value: T) -> tuple[bytes, Ref[T]]:
    if isinstance(value, Ref):
        raise WrongArguments("fleet.put was given a reference already", hint="pass it to calls as it is")
    try:
        data = ArgumentPickler(None).dumps((value,), {})
    except WrongArguments as error:
        arrays = _as_arrays(value)
        if arrays is not None:
            return arrays
        hint = _FOR_ARRAYS if "for array programs" in (error.hint or "") else error.hint
        raise WrongArguments(error.message.replace("argument 0", "the value", 1), hint=hint) from None
    except PayloadTooLarge as error:
        message = error.message.replace("the arguments have", "the value has", 1)
        raise PayloadTooLarge(message, hint="put parts of it") from None
    if refs_of(data):
        raise WrongArguments(
            "a value for fleet.put can't hold references that fleet.put gave",
            hint="pass both to the call, or put the whole at once",
        )
    return data, Ref(hashlib.sha256(data).hexdigest(), len(data), value)


def _as_arrays(value: Any) -> tuple[bytes, Ref[Any]] | None:
    """A pytree of arrays in the form that jax programs take; None for what is none, or where there is no jax."""
    if "numpy" not in sys.modules or importlib.util.find_spec("jax") is None:
        return None
    from fleet._jax import refs

    return refs.of_value(value)
