"""The programs of one function: traced when a call first needs them, one for each signature.

Units: bytes. Errors: WrongArguments for a call that doesn't fit, DeployError for a function that can't be exported.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from fleet import _keep
from fleet._jax import arguments, dims, export, refusals, trees
from fleet._jax.dims import Shape
from fleet._jax.params import weights_of
from fleet._jax.results import Result
from fleet._jax.signatures import Call, Signature
from fleet._jax.values import Spec, x64
from fleet.protocol import jax_bundle
from fleet.protocol.errors import DeployError
from fleet.protocol.ids import digest
from fleet.protocol.limits import KIB, MANIFEST_BYTES_MAX
from fleet.protocol.messages.functions import ArraySpec, Batch, JaxModule, JaxProgram

if TYPE_CHECKING:
    from fleet._function import Function

PROGRAMS_MAX = 256
"""Programs of one function that are kept in this process; the one used longest ago is traced again when it is needed."""
DESCRIPTION_BYTES_MAX = MANIFEST_BYTES_MAX - 8 * KIB
"""The rest of a manifest is for names, signature and documentation."""


class Traced:
    """One program of a function, and how calls of its signature are packed and their results rebuilt."""

    def __init__(self, programs: Programs, call: Call, specs: list[Spec], shapes_why: str, defaults: Mapping[str, Any]):
        self.key: Hashable = call.key if specs is call.specs else call.fixed_key
        self._name = programs.name
        self._result = Result()
        self.registering = threading.Lock()
        self.specs = specs
        self.weights = programs.weights
        weight_specs = [Spec(dtype, shape) for dtype, shape in self.weights.specs] if self.weights is not None else []
        flat = _flat(programs, call, specs, self._result)
        self.exported = export.export(self._name, flat, [*weight_specs, *specs])
        self._result.weak = self.exported.weak
        self.why_not = {**self.exported.why_not, **({"shapes": shapes_why} if shapes_why else {})}
        joins = _joins(programs, specs, self.exported.outputs, bool(self._result.kept))
        self.bundle = self._pack_bundle(weight_specs, call.x64, joins)
        self.digest = digest(self.bundle)
        self.jax_program = self._describe(programs, call, defaults)
        if len(self.jax_program.model_dump_json()) > DESCRIPTION_BYTES_MAX:
            raise DeployError(
                f"{self._name} takes and returns so many arrays that their description has more than "
                f"{DESCRIPTION_BYTES_MAX} bytes",
                hint="put small arrays together as one (jnp.stack), or give weights by params=",
            )

    def _pack_bundle(self, weights: list[Spec], x64: bool, joins: bool | None) -> bytes:
        head = {
            "x64": x64,
            "weights": [[one.dtype, list(one.shape)] for one in weights],
            "inputs": [[one.dtype, list(one.shape)] for one in self.specs],
            "outputs": [[dtype, list(shape)] for dtype, shape in self.exported.outputs],
            "result": self._result.tree,
            "batch": joins,
            "modules": [
                {
                    "platforms": list(one.platforms),
                    "calling_convention": one.calling_convention,
                    "stablehlo": one.stablehlo,
                }
                for one in self.exported.modules
            ],
        }
        return jax_bundle.pack(head, [one.data for one in self.exported.modules])

    def _describe(self, programs: Programs, call: Call, defaults: Mapping[str, Any]) -> JaxProgram:
        batch, weights = programs.batch, self.weights
        return JaxProgram(
            modules=[
                JaxModule(
                    platforms=list(one.platforms),
                    calling_convention=one.calling_convention,
                    stablehlo=one.stablehlo,
                )
                for one in self.exported.modules
            ],
            why_not=self.why_not,
            x64=call.x64,
            inputs=[ArraySpec(dtype=one.dtype, shape=list(one.shape)) for one in self.specs],
            outputs=[ArraySpec(dtype=dtype, shape=list(shape)) for dtype, shape in self.exported.outputs],
            arguments=json.dumps(_arguments(call, defaults), separators=(",", ":")),
            weights=list(weights.pieces) if weights is not None else [],
            weights_bytes=sum(piece.size_bytes for piece in weights.pieces) if weights is not None else 0,
            batch=Batch(max_size=batch.max_size, max_wait_s=batch.max_wait_s) if batch is not None else None,
        )

    def pack(self, call: Call) -> bytes:
        """The arguments of a call on the wire (with ``_packed.refs_of``)."""
        return arguments.pack(call, self._name)

    def unpack(self, value: Any) -> Any:
        """The result of a call as the function returns it, from what the codec decoded."""
        return self._result.rebuild(value, x64())

    def read(self, wanted: str) -> bytes | bytearray:
        """The bundle, or a piece of the weights, by digest."""
        if wanted == self.digest:
            return self.bundle
        assert self.weights is not None, "the platform misses what was named to it"
        return self.weights.read(wanted)

    @property
    def platforms_text(self) -> str:
        """``cpu cuda tpu``, or ``cpu (not cuda: ...; not tpu: ...)``."""
        return platforms_text(self.jax_program)


def platforms_text(program: JaxProgram) -> str:
    """Where a program runs, and why not elsewhere."""
    there = [one for one in export.PLATFORMS if any(one in module.platforms for module in program.modules)]
    missing = [f"not {name}: {why}" for name, why in program.why_not.items() if name != "shapes"]
    if "shapes" in program.why_not:
        missing.append(f"fixed shapes: {program.why_not['shapes']}")
    return " ".join(there) + (f" ({'; '.join(missing)})" if missing else "")


def _flat(programs: Programs, call: Call, specs: list[Spec], result: Result) -> Callable[..., list[Any]]:
    """The function from weights and inputs to outputs, all flat."""
    signature, weights, entries = programs.signature, programs.weights, call.entries
    count = len(weights.leaves) if weights is not None else 0

    def flat(*leaves: Any) -> list[Any]:
        given: dict[str, Any] = {}
        if weights is not None:
            given[signature.params or ""] = jax.tree_util.tree_unflatten(weights.treedef, leaves[:count])
        inputs = iter(zip(leaves[count:], specs, strict=True))
        for entry in entries:
            found = [_input(*next(inputs)) if leaf is None else leaf[0] for leaf in entry.leaves]
            single = entry.treedef is None
            given[entry.name] = found[0] if single else jax.tree_util.tree_unflatten(entry.treedef, found)
        args, kwargs = signature.spread(given)
        return result.flatten(programs.name, _keep.marked(signature.raw, args, kwargs))

    flat.__name__ = flat.__qualname__ = "main"
    return flat


def _input(leaf: Any, spec: Spec) -> Any:
    return leaf if spec.key is None else jax.random.wrap_key_data(leaf, impl=spec.key)


def _arguments(call: Call, defaults: Mapping[str, Any]) -> list[Any]:
    """How a call's arguments make the inputs: ``[parameter, tree]``, with a third element for a default."""
    rows: list[Any] = []
    at = 0
    for entry in call.entries:
        if entry.treedef is None:
            rows.append([entry.name, {"static": repr(entry.leaves[0][0] if entry.leaves[0] else None)}])
            continue
        marks: list[Any] = []
        for leaf in entry.leaves:
            marks.append(_Mark(at) if leaf is None else _Mark({"static": repr(leaf[0])}))
            at += leaf is None
        tree = trees.describe(jax.tree_util.tree_unflatten(entry.treedef, marks), lambda mark: mark.tree)
        rows.append([entry.name, tree, *([defaults[entry.name]] if entry.name in defaults else [])])
    return rows


class _Mark:
    """In place of a leaf: its tree."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree


def _joins(programs: Programs, specs: list[Spec], outputs: list[tuple[str, Shape]], keeps: bool) -> bool | None:
    """Whether rows of several calls may be joined; None without ``batch=``. DeployError where they can't ever be."""
    if programs.batch is None:
        return None
    name = programs.name
    leading = {spec.shape[0] if spec.shape else None for spec in specs}
    (first, *others) = leading or {None}
    if others or first is None:
        raise DeployError(
            f"{name}: batch= joins calls along the leading dimension, which "
            f"{'its arrays have not in common' if others else 'an argument without dimensions lacks'}",
            hint="give each array the same named leading dimension; pass numbers as constants or by params=",
        )
    if not isinstance(first, str):
        return False  # A call with shapes of its own, such as an empty one.
    if keeps:
        raise DeployError(
            f"{name}: with batch= several calls share one result, and fleet.keep would keep it for each of them",
            hint="leave one of the two out",
        )
    for _, shape in outputs:
        if not shape or shape[0] != first:
            raise DeployError(
                f"{name}: batch= splits results along the leading dimension, and it returns one of shape "
                f"{dims.text(shape)}",
                hint=f"return arrays whose first dimension is {first}, or leave batch= out",
            )
    return True


class Programs:
    """All programs of one function, by signature."""

    def __init__(self, raw: Callable[..., Any], name: str, params: Any, batch: Any, memory_bytes: int) -> None:
        self.name = name
        self.batch = batch
        self.given = params  # Known by its identity, so it has to live as long.
        self.weights = weights_of(params, memory_bytes) if params is not None else None
        self.signature = Signature(raw, name, params is not None, batch is not None)
        self._known: OrderedDict[Hashable, Traced] = OrderedDict()
        self._fixed: dict[Hashable, str] = {}
        """Keys of what can't be exported for any size, and why."""
        self._lock = threading.RLock()

    @staticmethod
    def x64() -> bool:
        """Whether calls of this thread have 64-bit numbers."""
        return x64()

    def analyse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], wide: bool) -> Call:
        """What a call is made of. ``wide``: with 64-bit numbers."""
        return self.signature.call(args, kwargs, wide)

    def traced(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Traced:
        """The program for a call with these arguments."""
        return self.trace(self.analyse(tuple(args), kwargs, x64()))

    def known(self, call: Call) -> Traced | None:
        """The program of a call, if it is traced already."""
        with self._lock:
            key = call.fixed_key if call.key in self._fixed else call.key
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            return found

    def trace(self, call: Call) -> Traced:
        """The program of a call, traced now where it isn't known. Takes 0.1 s and more."""
        with self._lock:
            found = self.known(call)
            if found is None:
                with jax.enable_x64(call.x64):
                    found = self._trace(call)
                self._known[found.key] = found
                if len(self._known) > PROGRAMS_MAX:
                    self._known.popitem(last=False)
            return found

    def _trace(self, call: Call) -> Traced:
        why = self._fixed.get(call.key, "")
        if not why and call.specs != call.fixed:
            try:
                return Traced(self, call, call.specs, "", {})
            except Exception as error:
                # Whatever it is: if it isn't about symbolic sizes, fixed ones meet it, too.
                if self.batch is not None and not isinstance(error, DeployError):
                    raise refusals.of_dimensions(self.name, refusals.reason(error)) from error
                if self.batch is not None:
                    raise
                why = refusals.reason(error)
            found = Traced(self, call, call.fixed, why, {})
            self._fixed[call.key] = why
            return found
        return Traced(self, call, call.fixed, why, {})

    def for_deploy(self) -> Traced:
        """The program that annotations describe; DeployError names the parameter that they don't."""
        wide = x64()
        error: DeployError | None = None
        for with_defaults in (True, False):
            found, missing = self.signature.skeleton(wide, with_defaults)
            if missing:
                raise DeployError(
                    f"{self.name} can't be deployed: nothing says which shape {missing} has, its shapes come from its calls",
                    hint=f'annotate it, as in {missing.partition("[")[0]}: Float[Array, "b 3"] (jaxtyping); '
                    "or call it undeployed",
                )
            call = self.signature.call_of(found, wide)
            defaults = self.signature.defaults(found)
            try:
                return self._deployed(call, defaults)
            except DeployError as refused:
                error = error or refused
                if not defaults:
                    break
        assert error is not None, self.name
        raise error

    def _deployed(self, call: Call, defaults: Mapping[str, Any]) -> Traced:
        try:
            return Traced(self, call, call.specs, "", defaults)
        except DeployError:
            raise
        except Exception as error:
            if any(isinstance(dim, str) for spec in call.specs for dim in spec.shape):
                raise refusals.of_dimensions(self.name, refusals.reason(error)) from error
            raise


def programs_of(function: Function[Any, Any]) -> Programs:
    """The programs of a function and its copies with other options, as long as one of them lives."""
    options = function.options
    key = (id(options.params), options.batch, options.memory_bytes)
    found = function.traced.get(key)
    if found is None:
        assert function._raw is not None, function
        made = Programs(function._raw, function.display_name, options.params, options.batch, options.memory_bytes)
        found = function.traced.setdefault(key, made)
    assert isinstance(found, Programs), found
    return found


def describe(function: Function[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Traced:
    """The program for a call with these arguments."""
    return programs_of(function).traced(args, kwargs)
