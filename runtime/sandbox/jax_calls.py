"""The forms of custom calls: what is read from a call before ``jax_kernels`` compares it, and the calls that are no kernels.

Errors: none of its own; a problem is told as text that names it, "" if there is none.
"""

from __future__ import annotations

import re
from typing import Any, Final

from jaxlib.mlir import ir

from fleet.protocol.errors import ProgramRefused
from runtime.sandbox.jax_kernels import FFI, TPU, Kernel, Value, misfit

TEXT_CHARS_MAX: Final = 8192


def refuse(found: str, hint: str | None = None) -> ProgramRefused:
    """The error that names what was found."""
    return ProgramRefused(f"this jax program is not run on cars: {found[:600]}", hint=hint)


def misuse(target: str, attributes: Any, operands: list[Value], results: list[Value]) -> tuple[str, bool]:
    """What is wrong with a call of ``target``, one of ``CALLS``; and whether its shapes have to be looked at again once
    they are known."""
    if target in _FORMS:
        return _FORMS[target](attributes, operands, results), False
    return _kernel(target, attributes, operands, results)


def _kernel(target: str, attributes: Any, operands: list[Value], results: list[Value]) -> tuple[str, bool]:
    problem = _kernel_attributes(attributes)
    if not problem and "indices_of_shape_operands" in attributes:
        operands, problem = _without_shapes(attributes["indices_of_shape_operands"], operands, results)
    if problem:
        return problem, False
    kernels: tuple[Kernel, ...]
    if target in FFI:
        kernels, (config, problem) = FFI[target], _typed_config(attributes)
    else:
        kernels, (config, problem) = TPU[target], _text_config(attributes)
    problems = [problem or misfit(kernel, operands, results, config) for kernel in kernels]
    is_open = any(None in shape for _, shape in (*operands, *results))
    return ("" if "" in problems else problems[0]), is_open


def _kernel_attributes(attributes: Any) -> str:
    for name in ("rng_algorithm", "error_message"):
        if name in attributes:
            return f"the attribute {name}"
    if "mhlo.frontend_attributes" in attributes:
        text = str(attributes["mhlo.frontend_attributes"])
        if not _BATCH.fullmatch(text):
            return f"the attributes {text[:80]}"
    return ""


_BATCH = re.compile(r'\{num_batch_dims = "\d{1,2}"\}')
_ENTRY = re.compile(r"\d{1,9}")


def _without_shapes(indices: Any, operands: list[Value], results: list[Value]) -> tuple[list[Value], str]:
    """The operands without those that tell the shapes of the results, which are the last ones."""
    numbers: Any = ir.DenseIntElementsAttr(indices)
    places = [int(place) for place in numbers]
    first = len(operands) - len(results)
    if first < 0 or places != list(range(first, len(operands))):
        return operands, "shapes among its operands in another order than jax has"
    for (element, shape), (_, result) in zip(operands[first:], results, strict=True):
        if element not in ("i32", "i64") or shape != (len(result),):
            return operands, "operands that tell no shapes"
    return operands[:first], ""


def _typed_config(attributes: Any) -> tuple[dict[str, str], str]:
    """The dictionary of a call with a typed interface; jax has two ways to write it."""
    named = [name for name in ("mhlo.backend_config", "backend_config") if name in attributes]
    version = str(attributes["api_version"]) if "api_version" in attributes else "1 : i32"
    if named != ["mhlo.backend_config" if version == "1 : i32" else "backend_config"] or version not in (
        "1 : i32",
        "4 : i32",
    ):
        return {}, f"interface version {version[:20]} and configuration {named}"
    if not isinstance(attributes[named[0]], ir.DictAttr):
        return {}, "a configuration that is no dictionary"
    entries: Any = ir.DictAttr(attributes[named[0]])
    return {entry.name: str(entry.attr)[:200] for entry in entries}, ""


def _text_config(attributes: Any) -> tuple[dict[str, str], str]:
    if "mhlo.backend_config" in attributes or str(attributes.get("api_version", 2))[0] not in "12":
        return {}, "another interface than jax uses"
    if "backend_config" not in attributes:
        return {"": ""}, ""
    if not isinstance(attributes["backend_config"], ir.StringAttr):
        return {}, "a configuration that is no text"
    return {"": text_of(attributes["backend_config"])}, ""


def _assertion(attributes: Any, operands: list[Value], results: list[Value]) -> str:
    sizes_at_most = 33
    if results or not 1 <= len(operands) <= sizes_at_most or operands[0] != ("i1", ()):
        return "other operands than a condition and sizes"
    if any(one not in (("i32", ()), ("i64", ())) for one in operands[1:]):
        return "operands that are no sizes"
    known = {"api_version", "call_target_name", "error_message", "has_side_effect", "called_computations"}
    return _only(attributes, known) or (
        "no message" if len(text_of(attributes["error_message"])) > TEXT_CHARS_MAX else ""
    )


def _approx_top_k(attributes: Any, operands: list[Value], results: list[Value]) -> str:
    if "indices_of_shape_operands" in attributes:
        operands, problem = _without_shapes(attributes["indices_of_shape_operands"], operands, results)
        if problem:
            return problem
    count = len(results)
    if not count or len(operands) != 2 * count or len(ir.ArrayAttr(attributes["called_computations"])) != 1:
        return f"{len(operands)} operands"
    config, problem = _typed_config(attributes)
    if problem or not set(config) <= set(_TOP_K) or not all(_TOP_K[name].fullmatch(config[name]) for name in config):
        return problem or f"the configuration {str(config)[:200]}"
    at = int(config.get("reduction_dim", "-1").split()[0])
    for (element, shape), first, (result_element, result) in zip(operands, operands[count:], results, strict=False):
        if first != (element, ()) or result_element != element or not 0 <= at < len(shape) == len(result):
            return "operands that don't fit its results"
        rest = [pair for place, pair in enumerate(zip(shape, result, strict=True)) if place != at]
        if any(a != b and None not in (a, b) for a, b in rest):
            return "operands that don't fit its results"
    return _only(attributes, _TOP_K_ATTRIBUTES)


def _reduce_window(attributes: Any, operands: list[Value], results: list[Value]) -> str:
    known = {"api_version", "call_target_name", "called_computations"}
    if (
        not results
        or len(operands) != 2 * len(results) + 5
        or len(ir.ArrayAttr(attributes["called_computations"])) != 1
    ):
        return f"{len(operands)} operands"
    return _only(attributes, known)


def _random_bits(attributes: Any, operands: list[Value], results: list[Value]) -> str:
    if len(operands) != 2 or len(results) != 2 or operands[0] != results[0] or operands[0][0] != "ui64":
        return f"{len(operands)} operands"
    if operands[1][0] not in ("i32", "i64") or operands[1][1] != (len(results[1][1]),):
        return "operands that tell no shape"
    return _only(attributes, {"api_version", "call_target_name", "rng_algorithm"})


def _only(attributes: Any, known: set[str]) -> str:
    for name in attributes:
        if name not in known:
            return f"the attribute {name[:80]!r}"
    return ""


_FLOAT = re.compile(r"[0-9.e+-]{1,24} : f32")
_INT64 = re.compile(r"-?\d{1,12} : i64")
_BOOL = re.compile("true|false")
_TOP_K = {
    "aggregate_to_topk": _BOOL,
    "is_fallback": _BOOL,
    "recall_target": _FLOAT,
    "reduction_dim": _INT64,
    "reduction_input_size_override": _INT64,
    "top_k": _INT64,
}
_TOP_K_ATTRIBUTES = {
    "api_version",
    "backend_config",
    "call_target_name",
    "called_computations",
    "indices_of_shape_operands",
    "mhlo.backend_config",
}
_FORMS = {
    "shape_assertion": _assertion,
    "ApproxTopK": _approx_top_k,
    "stablehlo.dynamic_reduce_window": _reduce_window,
    "stablehlo.dynamic_rng_bit_generator": _random_bits,
}
"""Calls that are no kernels: the compiler replaces them by operations."""
CALLS: Final = frozenset((*FFI, *TPU, *_FORMS))
"""Every custom call that is allowed."""
WITH_FUNCTION = ("ApproxTopK", "stablehlo.dynamic_reduce_window")


def is_true(attributes: Any, name: str) -> bool:
    return name in attributes and str(attributes[name]) != "false"


def text_of(attribute: Any) -> str:
    try:
        return str(ir.StringAttr(attribute).value)
    except UnicodeDecodeError:
        raise refuse("a name that is no text") from None


def symbol_of(attribute: Any) -> str:
    if not isinstance(attribute, ir.FlatSymbolRefAttr):
        raise refuse(f"a call of {str(attribute)[:80]}")
    try:
        return str(ir.FlatSymbolRefAttr(attribute).value)
    except UnicodeDecodeError:
        raise refuse("a name that is no text") from None
