"""Walk a parsed module and stop at the first thing that isn't allowed.

One pass over all operations, with a stack of our own: 5 us each (measured: 1,471 operations of a BERT layer stack 8 ms). What
is looked at: the operation's name and the names of its attributes (``jax_operations``), the type of every value, constants,
custom calls (``jax_kernels``), composites, who calls whom, and how much all calls written out would be.
Errors: ProgramRefused, one sentence that names what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from jaxlib.mlir import ir

from fleet.protocol.errors import ProgramRefused
from runtime.sandbox.jax_kernels import FFI, TPU, Kernel, Value, misfit
from runtime.sandbox.jax_operations import ARGUMENT_ATTRIBUTES, COMPOSITES, ELEMENT_BITS, OPERATIONS

OPERATIONS_MAX: Final = 200_000
WRITTEN_OUT_MAX: Final = 2_000_000
"""Operations when every call is replaced by what it calls: the compiler does that."""
FUNCTIONS_MAX: Final = 16_384
DEPTH_MAX: Final = 64
"""Regions inside regions, and calls inside calls: the compiler walks both on its stack."""
TEXT_CHARS_MAX: Final = 8192
_UNKNOWN = "dense_resource"


@dataclass(slots=True)
class Walked:
    """What one walk found."""

    operations: int = 0
    functions: dict[str, _Function] = field(default_factory=dict)
    open_kernels: bool = False
    """A kernel is called with shapes that aren't known yet: they have to be looked at again."""


@dataclass(slots=True)
class _Function:
    operations: int = 0
    calls: list[str] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)


def refuse(found: str) -> ProgramRefused:
    """The error that names what was found."""
    return ProgramRefused(f"this jax program is not run on cars: {found[:600]}")


class Walker:
    """``Walker(tensor_bytes_max).walk(module)``. ``static``: every shape has to be known."""

    def __init__(self, tensor_bytes_max: int, *, static: bool = False) -> None:
        self._tensor_bytes_max = tensor_bytes_max
        self._static = static
        self._types: dict[ir.Type, Value] = {}
        self._walked = Walked()

    def walk(self, module: ir.Module) -> Walked:
        """Look at all of ``module``; ProgramRefused for what isn't allowed."""
        top = module.operation
        self._module(top)
        body = list(top.regions[0].blocks[0].operations)
        if len(body) > FUNCTIONS_MAX:
            raise refuse(f"it has {len(body)} functions, allowed are {FUNCTIONS_MAX}")
        for op in body:
            self._function(op.operation)
        self._check_calls()
        return self._walked

    def _module(self, top: ir.Operation) -> None:
        _check_attributes(top)
        for name in ("mhlo.num_partitions", "mhlo.num_replicas"):
            if name in top.attributes and str(top.attributes[name]) != "1 : i32":
                raise refuse(f"{name} is {top.attributes[name]}, it would run on several devices")
        if len(top.regions[0].blocks) != 1:
            raise refuse("its module has no body")

    def _function(self, op: ir.Operation) -> None:
        if op.name != "func.func":
            raise refuse(f"the operation {op.name} outside of functions")
        self._walked.operations += 1
        _check_attributes(op)
        name = _text(op.attributes["sym_name"])
        region = op.regions[0]
        if len(region.blocks) != 1:
            raise refuse(f"the function {name[:80]} has {len(region.blocks)} blocks")
        kind = ir.FunctionType(ir.TypeAttr(op.attributes["function_type"]).value)
        function = _Function(inputs=list(map(self._value, kind.inputs)), outputs=list(map(self._value, kind.results)))
        for key in ("arg_attrs", "res_attrs"):
            if key in op.attributes:
                _check_argument_attributes(ir.ArrayAttr(op.attributes[key]))
        self._walked.functions[name] = function
        self._region(region, function)

    def _region(self, region: ir.Region, function: _Function) -> None:
        stack: list[tuple[Any, int]] = [(region, 1)]
        while stack:
            region, depth = stack.pop()
            if depth > DEPTH_MAX:
                raise refuse(f"its regions are nested deeper than {DEPTH_MAX}")
            for block in region.blocks:
                for argument in block.arguments:
                    self._value(argument.type)
                for op in block.operations:
                    operation = op.operation
                    self._operation(operation, function)
                    stack.extend((inner, depth + 1) for inner in operation.regions)

    def _operation(self, op: ir.Operation, function: _Function) -> None:
        function.operations += 1
        self._walked.operations += 1
        if self._walked.operations > OPERATIONS_MAX:
            raise refuse(f"it has more than {OPERATIONS_MAX} operations")
        name = op.name
        if name in ("func.func", "builtin.module"):
            raise refuse(f"the operation {name} inside of a function")
        _check_attributes(op)
        for result in op.results:
            self._value(result.type)
        if name == "stablehlo.custom_call":
            self._custom_call(op, function)
        elif name == "func.call":
            function.calls.append(_symbol(op.attributes["callee"]))
        elif name == "stablehlo.composite":
            self._composite(op, function)
        elif name == "stablehlo.constant" and not _is_dense(op):
            raise refuse("a constant whose value lies elsewhere")

    # --- types ---

    def _value(self, kind: ir.Type) -> Value:
        """Element type and shape of a value's type, checked once."""
        found = self._types.get(kind)
        if found is None:
            found = self._types[kind] = self._measure(kind)
        return found

    def _measure(self, kind: ir.Type) -> Value:
        if not isinstance(kind, ir.RankedTensorType):
            raise refuse(f"a value of type {str(kind)[:80]}")
        tensor = ir.RankedTensorType(kind)
        element = str(tensor.element_type)
        if tensor.encoding is not None or element not in ELEMENT_BITS:
            raise refuse(f"a value of type {str(kind)[:80]}")
        shape = tuple(None if tensor.is_dynamic_dim(at) else tensor.get_dim_size(at) for at in range(tensor.rank))
        if self._static and None in shape:
            raise refuse(f"a value of type {str(kind)[:80]}, whose shape is open although the arguments are known")
        bits = ELEMENT_BITS[element]
        for size in shape:
            bits *= 1 if size is None else size
        if bits // 8 > self._tensor_bytes_max:
            raise refuse(f"an array of {bits // 8} bytes ({str(kind)[:80]}), more than its memory= allows")
        return element, shape

    # --- calls ---

    def _check_calls(self) -> None:
        """Every call names a function, none calls itself, and written out they are not too much."""
        functions = self._walked.functions
        written: dict[str, tuple[int, int]] = {}
        """Operations when written out, and depth, of functions that are done."""
        for root in functions:
            path: list[tuple[str, int]] = [(root, 0)]
            on_path = {root}
            while path:
                name, at = path[-1]
                calls = functions[name].calls
                if name in written or at == len(calls):
                    path.pop()
                    on_path.discard(name)
                    if name not in written:
                        inner = [written[called] for called in calls]
                        size = functions[name].operations + sum(size for size, _ in inner)
                        written[name] = size, 1 + max((depth for _, depth in inner), default=0)
                        _check_written(name, *written[name])
                    continue
                path[-1] = (name, at + 1)
                called = calls[at]
                if called not in functions:
                    raise refuse(f"a call of {called[:80]!r}, which it doesn't have")
                if called in on_path:
                    raise refuse(f"the function {called[:80]!r} calls itself")
                if called not in written:
                    path.append((called, 0))
                    on_path.add(called)

    def _composite(self, op: ir.Operation, function: _Function) -> None:
        name = _text(op.attributes["name"])
        if name not in COMPOSITES:
            raise refuse(f"the composite operation {name[:80]!r}")
        function.calls.append(_symbol(op.attributes["decomposition"]))

    def _custom_call(self, op: ir.Operation, function: _Function) -> None:
        attributes = op.attributes
        target = _text(attributes["call_target_name"])
        operands, results = [self._value(one.type) for one in op.operands], [self._value(one.type) for one in op.results]
        if "called_computations" in attributes:
            called = [_symbol(one) for one in ir.ArrayAttr(attributes["called_computations"])]
            function.calls.extend(called)
            if called and target not in _WITH_FUNCTION:
                raise refuse(f"the custom call {target[:80]!r} with a function")
        if _is_true(attributes, "has_side_effect") and target != "shape_assertion":
            raise refuse(f"the custom call {target[:80]!r} with side effects")
        if target in FFI or target in TPU:
            problem = self._kernel(target, attributes, operands, results)
        elif target in _FORMS:
            problem = _FORMS[target](attributes, operands, results)
        else:
            raise refuse(f"the custom call {target[:80]!r}")
        if problem:
            raise refuse(f"the custom call {target!r} with {problem}")

    def _kernel(self, target: str, attributes: Any, operands: list[Value], results: list[Value]) -> str:
        for name in ("rng_algorithm", "error_message"):
            if name in attributes:
                return f"the attribute {name}"
        if "mhlo.frontend_attributes" in attributes and not _BATCH.fullmatch(str(attributes["mhlo.frontend_attributes"])):
            return f"the attributes {str(attributes['mhlo.frontend_attributes'])[:80]}"
        if "indices_of_shape_operands" in attributes:
            operands, problem = _without_shapes(attributes["indices_of_shape_operands"], operands, results)
            if problem:
                return problem
        kernels: tuple[Kernel, ...]
        if target in FFI:
            kernels, config, problem = FFI[target], *_typed_config(attributes)
        else:
            kernels, config, problem = TPU[target], *_text_config(attributes)
        if problem:
            return problem
        if any(None in shape for _, shape in (*operands, *results)):
            self._walked.open_kernels = True
        problems = [misfit(kernel, operands, results, config) for kernel in kernels]
        return "" if "" in problems else problems[0]


def _check_written(name: str, operations: int, depth: int) -> None:
    if operations > WRITTEN_OUT_MAX:
        raise refuse(f"the function {name[:80]!r} is more than {WRITTEN_OUT_MAX} operations when its calls are written out")
    if depth > DEPTH_MAX:
        raise refuse(f"its calls are nested deeper than {DEPTH_MAX}")


def _is_dense(op: ir.Operation) -> bool:
    """Whether the value of a constant is in the module itself."""
    try:
        return isinstance(op.attributes["value"], ir.DenseElementsAttr)
    except TypeError as error:  # Of complex numbers: MLIR's Python has no class for it, and says so.
        return "element type DenseTypedElementsAttr" in str(error)


def _check_attributes(op: ir.Operation) -> None:
    allowed = OPERATIONS.get(op.name)
    if allowed is None:
        raise refuse(f"the operation {op.name[:80]}")
    for name in op.attributes:
        if name not in allowed:
            raise refuse(f"the attribute {name[:80]!r} of {op.name}")


def _check_argument_attributes(sets: Iterable[Any]) -> None:
    for one in sets:
        for named in ir.DictAttr(one):
            if named.name not in ARGUMENT_ATTRIBUTES:
                raise refuse(f"the attribute {named.name[:80]!r} of an argument or a result")


_BATCH = re.compile(r'\{num_batch_dims = "\d{1,2}"\}')
_ENTRY = re.compile(r"\d{1,9}")


def _without_shapes(indices: Any, operands: list[Value], results: list[Value]) -> tuple[list[Value], str]:
    """The operands without those that tell the shapes of the results, which are the last ones."""
    places = [int(place) for place in ir.DenseIntElementsAttr(indices)]
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
    entries = ir.DictAttr(attributes[named[0]])
    return {entry.name: str(entry.attr)[:200] for entry in entries}, ""


def _text_config(attributes: Any) -> tuple[dict[str, str], str]:
    if "mhlo.backend_config" in attributes or str(attributes["api_version"] if "api_version" in attributes else 2)[0] not in "12":
        return {}, "another interface than jax uses"
    if "backend_config" not in attributes:
        return {"": ""}, ""
    if not isinstance(attributes["backend_config"], ir.StringAttr):
        return {}, "a configuration that is no text"
    return {"": _text(attributes["backend_config"])}, ""


def _assertion(attributes: Any, operands: list[Value], results: list[Value]) -> str:
    sizes_at_most = 33
    if results or not 1 <= len(operands) <= sizes_at_most or operands[0] != ("i1", ()):
        return "other operands than a condition and sizes"
    if any(one not in (("i32", ()), ("i64", ())) for one in operands[1:]):
        return "operands that are no sizes"
    known = {"api_version", "call_target_name", "error_message", "has_side_effect", "called_computations"}
    return _only(attributes, known) or ("no message" if len(_text(attributes["error_message"])) > TEXT_CHARS_MAX else "")


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
    if not results or len(operands) != 2 * len(results) + 5 or len(ir.ArrayAttr(attributes["called_computations"])) != 1:
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
_WITH_FUNCTION = ("ApproxTopK", "stablehlo.dynamic_reduce_window")


def _is_true(attributes: Any, name: str) -> bool:
    return name in attributes and str(attributes[name]) != "false"


def _text(attribute: Any) -> str:
    try:
        return str(ir.StringAttr(attribute).value)
    except UnicodeDecodeError:
        raise refuse("a name that is no text") from None


def _symbol(attribute: Any) -> str:
    if not isinstance(attribute, ir.FlatSymbolRefAttr):
        raise refuse(f"a call of {str(attribute)[:80]}")
    try:
        return str(ir.FlatSymbolRefAttr(attribute).value)
    except UnicodeDecodeError:
        raise refuse("a name that is no text") from None
