"""Walk a parsed module and stop at the first thing that isn't allowed.

One pass over all operations, with a stack of our own: 6 us each (reading the bytes takes as long again). What
is looked at: the operation's name and the names of its attributes (``jax_operations``), the type of every value, constants,
custom calls (``jax_kernels``), composites, who calls whom, and how much all calls written out would be.
Errors: ProgramRefused, one sentence that names what was found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from jaxlib.mlir import ir

from fleet.protocol.units import format_bytes
from runtime.sandbox.jax_calls import CALLS, WITH_FUNCTION, is_true, misuse, refuse, symbol_of, text_of
from runtime.sandbox.jax_kernels import Value
from runtime.sandbox.jax_operations import ARGUMENT_ATTRIBUTES, COMPOSITES, ELEMENT_BITS, OPERATIONS

OPERATIONS_MAX: Final = 200_000
WRITTEN_OUT_MAX: Final = 2_000_000
"""Operations when every call is replaced by what it calls: the compiler does that."""
FUNCTIONS_MAX: Final = 16_384
DEPTH_MAX: Final = 64
"""Regions inside regions, and calls inside calls: the compiler walks both on its stack."""


@dataclass(slots=True)
class Walked:
    """What one walk found."""

    operations: int = 0
    functions: dict[str, _Function] = field(default_factory=dict)
    open_shapes: bool = False
    """Some shape isn't known before the arguments are."""
    open_kernels: bool = False
    """A kernel is called with such a shape: it has to be looked at again."""


@dataclass(slots=True)
class _Function:
    operations: int = 0
    calls: list[str] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)


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
        name = text_of(op.attributes["sym_name"])
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
            function.calls.append(symbol_of(op.attributes["callee"]))
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
        self._walked.open_shapes |= None in shape
        bits = ELEMENT_BITS[element]
        for size in shape:
            bits *= 1 if size is None else size
        if bits // 8 > self._tensor_bytes_max:
            said = f"an array of {format_bytes(bits // 8)} ({str(kind)[:80]}), far more than its memory= allows"
            raise refuse(said, "raise memory= of the function, or compute with smaller arrays")
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
        name = text_of(op.attributes["name"])
        if name not in COMPOSITES:
            raise refuse(f"the composite operation {name[:80]!r}")
        function.calls.append(symbol_of(op.attributes["decomposition"]))

    def _custom_call(self, op: ir.Operation, function: _Function) -> None:
        attributes = op.attributes
        target = text_of(attributes["call_target_name"])
        operands, results = (
            [self._value(one.type) for one in op.operands],
            [self._value(one.type) for one in op.results],
        )
        if "called_computations" in attributes:
            called = [symbol_of(one) for one in ir.ArrayAttr(attributes["called_computations"])]
            function.calls.extend(called)
            if called and target not in WITH_FUNCTION:
                raise refuse(f"the custom call {target[:80]!r} with a function")
        if is_true(attributes, "has_side_effect") and target != "shape_assertion":
            raise refuse(f"the custom call {target[:80]!r} with side effects")
        if target not in CALLS:
            raise refuse(f"the custom call {target[:80]!r}")
        problem, is_open = misuse(target, attributes, operands, results)
        self._walked.open_kernels |= is_open
        if problem:
            raise refuse(f"the custom call {target!r} with {problem}")


def _check_written(name: str, operations: int, depth: int) -> None:
    if operations > WRITTEN_OUT_MAX:
        raise refuse(
            f"the function {name[:80]!r} is more than {WRITTEN_OUT_MAX} operations when its calls are written out"
        )
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
        entries: Any = ir.DictAttr(one)
        for named in entries:
            if named.name not in ARGUMENT_ATTRIBUTES:
                raise refuse(f"the attribute {named.name[:80]!r} of an argument or a result")
