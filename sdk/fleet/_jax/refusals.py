"""What jax says when a function can't be traced or exported, as one sentence and what to do about it."""

from __future__ import annotations

import linecache
import os
import traceback
from collections.abc import Iterator
from typing import Any

import jax

import fleet
from fleet.protocol.errors import DeployError

REASON_CHARS_MAX = 200
_CALLBACKS = {
    "pure_callback": "jax.pure_callback",
    "io_callback": "io_callback",
    "debug_callback": "jax.debug.callback",
    "debug_print": "jax.debug.print",
    "python_callback": "a callback into Python",
    "outside_call": "a callback into Python",
}
_VALUE_HINT = (
    "choose with jnp.where or jax.lax.cond, loop with jax.lax.fori_loop or scan; or make the argument a constant: annotate it "
    "as str, bool or Literal, or name it in jax.jit(static_argnames=...)"
)
_NUMPY_HINT = "use jax.numpy there: numpy computes at once, with values that aren't there while the function is traced"
_SHAPE_HINT = "keep the shape: jnp.where(mask, x, 0), or the size= argument of jnp.nonzero and its kin"
_FOLDERS = (
    *(os.path.dirname(os.path.abspath(file)) + os.sep for file in (jax.__file__, fleet.__file__, os.__file__)),
    *(f"{os.sep}{package}{os.sep}" for package in ("jaxlib", "numpy", "jaxtyping")),
)


def reason(error: BaseException) -> str:
    """The first line of an error, short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return first if len(first) <= REASON_CHARS_MAX else first[: REASON_CHARS_MAX - 3] + "..."


def tidy(error: BaseException) -> None:
    """Take out what jax adds to an error of the function itself about its own traceback."""
    notes = getattr(error, "__notes__", None)
    if notes:
        notes[:] = [note for note in notes if "JAX_TRACEBACK_FILTERING" not in note]


def of_tracing(name: str, error: Exception) -> DeployError | None:
    """What an error of tracing means; None for one that the function itself raised."""
    where = _where(error)
    if isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        return DeployError(
            f"{name} can't be traced: {where} a shape depends on the values of an array (a mask as an index)",
            hint=_SHAPE_HINT,
        )
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return DeployError(
            f"{name} can't be traced: {where} it uses an array of an earlier trace",
            hint="don't keep arrays in globals or attributes: return them",
        )
    for_value = isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError)
    if for_value or (isinstance(error, TypeError | ValueError) and "Tracer" in str(error)):
        if "size argument" in str(error):
            return DeployError(
                f"{name} can't be traced: {where} a shape depends on the values of an array", hint=_SHAPE_HINT
            )
        return DeployError(
            f"{name} can't be traced: {where} it needs the value of an array, which only the car has",
            hint=_NUMPY_HINT if isinstance(error, jax.errors.TracerArrayConversionError) else _VALUE_HINT,
        )
    if isinstance(error, TypeError) and "not a valid JAX type" in str(error):
        return DeployError(f"{name} can't be traced: {where} {reason(error)}", hint="give and return arrays alone")
    return None


def of_dimensions(name: str, why: str) -> DeployError:
    """A function that was to be exported for any size, and can't be."""
    return DeployError(
        f"{name} can't be exported for any size of its named dimensions: {why}",
        hint="annotate numbers instead of names, or call it with .remote(): its shapes are then those of each call",
    )


def of_callbacks(name: str, jaxpr: Any) -> DeployError | None:
    """What a program that calls back into Python, or has other effects, is refused with; None for one that hasn't."""
    for equation in _equations(jaxpr):
        primitive = equation.primitive.name
        if primitive in _CALLBACKS:
            return DeployError(
                f"{name} can't be exported: {_CALLBACKS[primitive]} at {_source(equation)} calls Python, "
                "and no Python of yours runs on a car in this lane",
                hint="take it out, or return the values and look at them here; or use runtime='wasm'",
            )
    if jaxpr.effects:
        shown = ", ".join(sorted({type(effect).__name__ for effect in jaxpr.effects}))
        return DeployError(
            f"{name} can't be exported: it has effects beside its result ({shown})",
            hint="return what it changes instead",
        )
    return None


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def _source(equation: Any) -> str:
    frames = getattr(equation.source_info, "traceback", None)
    found = frames.as_python_traceback() if frames is not None else None
    return _line_of(found) or "a place without source"


def _where(error: BaseException) -> str:
    found = _line_of(error.__traceback__)
    return f"at {found}" if found else ""


def _line_of(trace: Any) -> str:
    """``line 12 of jobs.py (if x > 0:)``: the innermost frame that is the developer's."""
    own = [frame for frame in traceback.extract_tb(trace) if not any(part in frame.filename for part in _FOLDERS)]
    if not own:
        return ""
    frame = own[-1]
    text = (linecache.getline(frame.filename, frame.lineno or 0) or frame.line or "").strip()
    shown = f" ({text[:80]})" if text else ""
    return f"line {frame.lineno} of {os.path.basename(frame.filename)}{shown}"
