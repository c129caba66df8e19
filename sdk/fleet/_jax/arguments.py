"""Arguments of a call as bytes: the codec's list with one numpy array per input, and references where there are some.

A value of ``fleet.put`` whose leaves are arrays is stored in this very form; any other one is stored a second time in it,
when a jax program first takes it: its pickle must not reach a car of this lane.
Errors: WrongArguments, PayloadTooLarge.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fleet._jax import dtypes, hints
from fleet._jax.encoding import encoded
from fleet._jax.hints import Hint
from fleet._jax.kept_refs import NamedKeptRef
from fleet._jax.refs import ArrayRef
from fleet._jax.signatures import Call, label
from fleet._jax.stored import stored_ref
from fleet._jax.values import Spec
from fleet._packed import packed
from fleet._ref import Ref
from fleet.protocol.errors import WrongArguments


def pack(call: Call, name: str) -> bytes:
    """The arguments of ``call`` to the function ``name``."""
    entries: list[Any] = []
    refs: dict[str, Ref[Any]] = {}
    inside = {at: (count, ref) for at, count, ref in call.refs}
    index = 0
    while index < len(call.values):
        if index in inside:
            count, ref = inside[index]
            stored = _stored(call, index, count, ref)
            refs[stored.digest] = stored
            entries.append({"ref": stored.digest, "bytes": stored.size_bytes, "arrays": count})
            index += count
            continue
        entries.append(_array(call, index))
        index += 1
    return packed(encoded(entries, name), refs)


def _array(call: Call, index: int) -> np.ndarray[Any, Any]:
    value, spec = call.values[index], call.fixed[index]
    if isinstance(value, jax.ShapeDtypeStruct):
        raise WrongArguments(f"{label(call, index)} is a description of an array", hint="give the array itself")
    return to_numpy(value, spec)


def to_numpy(value: Any, spec: Spec) -> np.ndarray[Any, Any]:
    """An array or number in the dtype that its program takes; without a copy where it is one already."""
    if spec.key is not None:
        value = jax.random.key_data(value)
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise WrongArguments("an array lies on devices of other processes", hint="gather it here first")
    return np.asarray(value, dtypes.dtype_of(spec.dtype))


def arrays_of(ref: Ref[Any], hint: Hint) -> Any:
    """The pytree that a reference stands for: its value, or where that isn't here, the shapes of its arrays.

    ``hint``: what is said of its place. That of what a function found by name kept is known from there alone.
    """
    if isinstance(ref, ArrayRef):
        return ref.like
    if isinstance(ref, NamedKeptRef):
        return _kept_by_name(ref, hint)
    return ref.value


def _kept_by_name(ref: NamedKeptRef, hint: Hint) -> Any:
    struct: Any = jax.ShapeDtypeStruct
    structs = [struct(shape, dtypes.dtype_of(name)) for name, shape in ref.specs]
    try:
        tree = hints.skeleton(hint, lambda _: 0, "")
    except hints.Missing:
        tree = 0
    structure: Any = jax.tree_util.tree_structure(tree)
    if structure.num_leaves != len(structs):
        raise WrongArguments(
            f"{ref!r} stands for {len(structs)} arrays that a function found by name kept, whose containers aren't known here",
            hint="annotate the parameter with what it is (a TypedDict, NamedTuple or dataclass of arrays), or find this "
            "function by its name, too",
        )
    return jax.tree_util.tree_unflatten(structure, structs)


def _stored(call: Call, index: int, count: int, ref: Ref[Any]) -> Ref[Any]:
    """The reference to a value in the form that a jax program takes."""
    specs = call.fixed[index : index + count]
    if isinstance(ref, ArrayRef | NamedKeptRef):
        if [(spec.dtype, spec.shape) for spec in specs] == ref.specs:
            return ref
        if not ref.here:
            raise WrongArguments(
                f"{label(call, index)} refers to arrays of other dtypes than jax has here",
                hint="jax_enable_x64 has to be as it was where they were put",
            )
    leaves = call.values[index : index + count]
    return stored_ref([to_numpy(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True)], ref.value, ref.digest)
