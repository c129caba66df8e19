"""Calls of a deployed jax function without its source: arguments by what its manifest says of them. numpy alone, no jax.

Errors: WrongArguments that names the parameter, what was expected and what was given; PayloadTooLarge.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet._jax import dims, dtypes
from fleet._jax.encoding import encoded
from fleet._jax.kept_refs import with_refs
from fleet._jax.stored import stored_ref
from fleet._packed import packed
from fleet._ref import Ref
from fleet.protocol.errors import WrongArguments
from fleet.protocol.limits import JAX_LEAVES_MAX, KIB
from fleet.protocol.messages import ArraySpec, Manifest

if TYPE_CHECKING:
    from fleet._jax.stored import StoredRef

__all__ = ["NamedPickler", "with_refs"]
_STORED_BYTES_MIN = 64 * KIB
_OTHER = "deploy the function with these values, or call it where its source is"


class NamedPickler:
    """Packs arguments for one version of a function, as ``_portable.arguments.ArgumentPickler`` does in the other lane."""

    def __init__(self, manifest: Manifest) -> None:
        program = manifest.program.jax
        assert program is not None, manifest
        self._name = f"{manifest.app}.{manifest.function}"
        self.program = program
        self._x64 = program.x64
        self._inputs: list[ArraySpec] = program.inputs
        self._rows: dict[str, list[Any]] = {row[0]: row[1:] for row in json.loads(program.arguments or "[]")}
        self._signature = _signature_of(manifest.signature, list(self._rows))
        if any(one.dtype in dtypes.ML for one in (*program.inputs, *program.outputs)):
            import ml_dtypes  # noqa: F401  # Results have arrays of these: they are read where this is imported.

    def dumps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The arguments as the car takes them."""
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise WrongArguments(
                f"{self._name}(): {error}", hint=f"its signature is {self._name}{_shown(self._signature)}"
            ) from None
        filler = _Filler(self._name, self._inputs, self._x64)
        for name, (tree, *default) in self._rows.items():
            if name in given:
                filler.place(tree, given.pop(name), name)
            elif default:
                filler.place(tree, default[0], name)
            elif not _is_constant(tree):
                raise WrongArguments(f"{self._name}() lacks the argument {name}")
        if given:
            name = next(iter(given))
            raise WrongArguments(
                f"{self._name}: {name} is fixed in the deployed program, to the default it has there", hint=_OTHER
            )
        return filler.packed()


class _Filler:
    """The flat inputs of one call, while they are found."""

    def __init__(self, name: str, inputs: list[ArraySpec], x64: bool) -> None:
        self._name = name
        self._inputs = inputs
        self._x64 = x64
        self._entries: dict[int, Any] = {}
        self._shapes: list[tuple[int, ...]] = [()] * len(inputs)
        self._labels = [""] * len(inputs)
        self._refs: dict[str, Ref[Any]] = {}

    def place(self, tree: Any, value: Any, path: str) -> None:
        """Put ``value``, which is found under ``path``, into its inputs."""
        if isinstance(value, Ref):
            self._place_ref(tree, value, path)
        elif isinstance(tree, int):
            self._place_array(tree, value, path)
        elif tree is None:
            if value is not None:
                raise self._wrong(path, "None", value)
        else:
            ((kind, inner),) = tree.items()
            if kind == "static":
                if repr(value) != inner:
                    raise WrongArguments(
                        f"{self._name}: {path} is fixed to {inner} in the deployed program, not {value!r:.60}",
                        hint=_OTHER,
                    )
            elif kind == "dict":
                self._place_dict(inner, value, path)
            else:
                self._place_all(kind, inner, value, path)

    def _place_dict(self, pairs: list[Any], value: Any, path: str) -> None:
        keys = [key for key, _ in pairs]
        if not isinstance(value, Mapping) or len(value) != len(keys) or any(key not in value for key in keys):
            raise self._wrong(path, f"a dict with the keys {', '.join(map(repr, keys))}", value)
        for key, tree in pairs:
            self.place(tree, value[key], f"{path}[{key!r}]")

    def _place_all(self, kind: str, inner: list[Any], value: Any, path: str) -> None:
        if kind == "node" and not isinstance(value, list | tuple) and "jax" in sys.modules:
            from fleet._jax.trees import children_of

            found = children_of(value)
            value = found[0] if found is not None else value
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            said = {"list": "a list", "tuple": "a tuple"}.get(kind, "an object, or a list of its parts,")
            raise self._wrong(path, f"{said} of {len(inner)}", value)
        for place, tree in enumerate(inner):
            self.place(tree, value[place], f"{path}[{place}]")

    def _place_array(self, number: int, value: Any, path: str) -> None:
        spec = self._inputs[number]
        array = self._array(spec, value, path)
        self._entries[number] = array
        self._note(number, array.shape, path)

    def _note(self, number: int, shape: tuple[int, ...], path: str) -> None:
        self._shapes[number] = shape
        self._labels[number] = path

    def _array(self, spec: ArraySpec, value: Any, path: str) -> np.ndarray[Any, Any]:
        wanted = dtypes.dtype_of(spec.dtype)
        if not hasattr(value, "dtype"):
            return self._of_numbers(spec, value, path, wanted)
        found = dtypes.canonical(str(value.dtype.name), self._x64)
        if found != spec.dtype:
            raise self._wrong(path, _asked(spec), value)
        return np.asarray(value, wanted)

    def _of_numbers(self, spec: ArraySpec, value: Any, path: str, wanted: Any) -> np.ndarray[Any, Any]:
        """A number, or lists of them."""
        try:
            array = np.asarray(value)
            if not dtypes.widens(array.dtype.name, spec.dtype):
                raise self._wrong(path, _asked(spec), value)
            if array.dtype.kind == "i" and "int" in spec.dtype and array.size:
                for number in (int(array.min()), int(array.max())):
                    if dtypes.is_integer_out_of(number, spec.dtype):
                        raise WrongArguments(f"{self._name}: {path} has {number}, which doesn't fit {spec.dtype}")
            return array.astype(wanted)
        except (ValueError, OverflowError):
            raise self._wrong(path, _asked(spec), value) from None

    def _place_ref(self, tree: Any, ref: Ref[Any], path: str) -> None:
        """A value of ``fleet.put``: by its digest where it was put as arrays, else as it is."""
        numbers = _numbers(tree)
        if getattr(ref, "specs", None) is None:
            self.place(tree, ref.value, path)
            arrays = [self._entries[number] for number in numbers]
            if sum(one.nbytes for one in arrays) < _STORED_BYTES_MIN:
                return  # With the call: less work than to look it up.
            ref = stored_ref(arrays, ref.value, ref.digest)
        stored: StoredRef = ref  # type: ignore[assignment]
        given = [dtype for dtype, _ in stored.specs]
        if given != [self._inputs[number].dtype for number in numbers]:
            raise WrongArguments(f"{self._name}: {path} refers to arrays of {', '.join(given)}, which it doesn't take")
        for number, (_, shape) in zip(numbers, stored.specs, strict=True):
            self._note(number, shape, path)
            self._entries[number] = None
        self._refs[ref.digest] = ref
        if numbers:
            self._entries[numbers[0]] = {"ref": ref.digest, "bytes": ref.size_bytes, "arrays": len(numbers)}

    def packed(self) -> bytes:
        """All of it as bytes, once the shapes are known to fit."""
        assert len(self._entries) == len(self._inputs) <= JAX_LEAVES_MAX, self._entries
        specs = [tuple(spec.shape) for spec in self._inputs]
        try:
            sizes = dims.sizes(specs, self._shapes)
        except dims.Misfit as error:
            why = f": {error.why}" if error.why else ""
            raise WrongArguments(
                f"{self._name}: {self._labels[error.index]} has shape {dims.text(self._shapes[error.index])}, "
                f"its program takes {dims.text(specs[error.index])}{why}"
            ) from None
        empty = next((name for name, size in sizes.items() if size < 1), None)
        if empty is not None:
            raise WrongArguments(f"{self._name}: {empty} is 0, and its program takes arrays of at least 1")
        entries = [self._entries[number] for number in range(len(self._inputs))]
        return packed(encoded([one for one in entries if one is not None], self._name), self._refs)

    def _wrong(self, path: str, wanted: str, value: Any) -> WrongArguments:
        given = f"{value.dtype} {dims.text(value.shape)}" if hasattr(value, "dtype") else f"{value!r:.60}"
        return WrongArguments(
            f"{self._name}: {path} has to be {wanted}, not {given}", hint="see fleet list for its signature"
        )


def _asked(spec: ArraySpec) -> str:
    return f"{spec.dtype} {dims.text(spec.shape)}" if spec.shape else f"one {spec.dtype}"


def _numbers(tree: Any) -> list[int]:
    """The inputs of a tree, in order."""
    if tree is None:
        return []
    if isinstance(tree, int):
        return [tree]
    ((kind, inner),) = tree.items()
    if kind == "static":
        return []
    return [number for one in inner for number in _numbers(one[1] if kind == "dict" else one)]


def _is_constant(tree: Any) -> bool:
    return tree is None or (isinstance(tree, dict) and "static" in tree)


def _signature_of(text: str, names: list[str]) -> inspect.Signature:
    """A signature as a manifest keeps it, no code of it run; without it, all parameters by position or name."""
    kinds = inspect.Parameter
    try:
        (function,) = ast.parse(f"def f{text}: pass").body
    except (SyntaxError, ValueError):
        return inspect.Signature([kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in names])
    assert isinstance(function, ast.FunctionDef), text
    found = function.args
    plain = [*((one, kinds.POSITIONAL_ONLY) for one in found.posonlyargs),
             *((one, kinds.POSITIONAL_OR_KEYWORD) for one in found.args)]  # fmt: skip
    required = len(plain) - len(found.defaults)
    default: Callable[[bool], Any] = lambda has: None if has else kinds.empty  # noqa: E731
    rows = [kinds(one.arg, kind, default=default(at >= required)) for at, (one, kind) in enumerate(plain)]
    if found.vararg is not None:
        rows.append(kinds(found.vararg.arg, kinds.VAR_POSITIONAL))
    for one, value in zip(found.kwonlyargs, found.kw_defaults, strict=True):
        rows.append(kinds(one.arg, kinds.KEYWORD_ONLY, default=default(value is not None)))
    if found.kwarg is not None:
        rows.append(kinds(found.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(rows)


def _shown(signature: inspect.Signature) -> str:
    return str(signature).replace("=None", "=...")
