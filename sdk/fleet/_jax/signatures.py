"""What the arguments of a call are to the program that takes them: arrays with shapes and dtypes, and constants.

One program serves all calls of equal *key*: the same parameters, containers and constants, and arrays of the same dtypes and
dimensions, where a name stands for any size. What decides, per array: its annotation, then ``batch=``, else the call.

Constants are: what ``jax.jit(static_argnames=...)`` names, parameters annotated ``str``, ``bool``, ``Literal``, an Enum or a
callable, whatever is no array and no number, and parameters that a call leaves to their defaults (as under jit).
Errors: WrongArguments that names the parameter.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from fleet import _params
from fleet._classes import hints_of
from fleet._jax import dims, hints
from fleet._jax.dims import Shape
from fleet._jax.hints import ArrayHint, Each, Hint, Inside, Number, Static
from fleet._jax.values import ARRAYS, NUMBERS, SHAPED, Shaped, Spec, constant_key, is_number, listed, shaped, spec_of
from fleet._ref import Ref
from fleet.protocol.errors import WrongArguments

_BATCH = "b"
"""The name of the leading dimension that ``batch=`` gives arrays without annotations."""


class Entry(NamedTuple):
    """One parameter: its containers, and its leaves: None for the next array, else a constant (in a tuple)."""

    name: str
    treedef: Any
    leaves: tuple[tuple[Any] | None, ...]


@dataclass(slots=True)
class Call:
    """The arguments of one call as a program takes them."""

    entries: list[Entry]
    values: list[Any]
    """The arrays and numbers, in order, with those that references stand for."""
    specs: list[Spec]
    fixed: list[Spec]
    """The same with numbers for dimensions, as this call has them."""
    refs: list[tuple[int, int, Ref[Any]]]
    """First array, count of arrays, and the reference that stands for them."""
    static_key: Hashable
    x64: bool

    @property
    def key(self) -> Hashable:
        """What has its own program."""
        return (self.static_key, tuple(self.specs), self.x64)

    @property
    def fixed_key(self) -> Hashable:
        """The same, for a program of these very shapes."""
        return (self.static_key, tuple(self.fixed), self.x64)


class Signature:
    """The parameters of a function, and what its annotations say."""

    def __init__(self, raw: Callable[..., Any], name: str, params: bool, batch: bool) -> None:
        info = getattr(raw, "_jit_info", None)
        # What jit would do with it is done for all of it: its own constants are ours.
        self.raw: Callable[..., Any] = getattr(raw, "__wrapped__", raw) if info is not None else raw
        self.name = name
        self.batch = batch
        self.full = inspect.signature(raw)
        bare = inspect.unwrap(raw.func if isinstance(raw, functools.partial) else raw)
        found = hints_of(bare)
        self.params = _params.place_of(raw)[1].name if params else None
        """The parameter that ``params=`` is bound to."""
        self.parameters = [one for one in self.full.parameters.values() if one.name != self.params]
        self._bare = inspect.Signature(self.parameters)
        self._positional = _positional(self.parameters)
        self.hints: dict[str, Hint] = {one.name: _hint_of(one, found.get(one.name)) for one in self.parameters}
        self._declared = self._static_names(info)
        self._known: dict[tuple[str, Any], list[Hint]] = {}

    def _static_names(self, info: Any) -> frozenset[str]:
        names = list(self.full.parameters)
        numbers = [
            names[number] for number in getattr(info, "static_argnums", ()) if -len(names) <= number < len(names)
        ]
        return frozenset((*getattr(info, "static_argnames", ()), *numbers))

    # --- from a call

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The given arguments by parameter; WrongArguments in Python's words."""
        least, names = self._positional
        if not kwargs and least <= len(args) <= len(names):
            return dict(zip(names, args, strict=False))
        try:
            return self._bare.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise WrongArguments(f"{self.name}(): {error}", hint=f"its signature is {self.name}{self._bare}") from None

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], x64: bool) -> Call:
        """What a call is made of; WrongArguments where shapes or dtypes contradict annotations or each other."""
        made = Call([], [], [], [], [], (), x64)
        statics: list[Hashable] = []
        leaf_hints: list[Hint] = []
        for name, value in self.bind(args, kwargs).items():
            self._add(made, statics, leaf_hints, name, value)
        made.static_key = tuple(statics)
        self._shape(made, leaf_hints)
        return made

    def _add(self, made: Call, statics: list[Hashable], leaf_hints: list[Hint], name: str, value: Any) -> None:
        hint = self.hints[name]
        if name in self._declared or (isinstance(hint, Static) and not isinstance(value, (*ARRAYS, Ref))):
            made.entries.append(Entry(name, None, ((value,),)))
            statics.append((name, constant_key(name, value)))
            return
        if isinstance(value, ARRAYS) or type(value) in (int, float, complex, bool):
            leaves, treedef = [value], _LEAF
            inside = [hint.leaf if isinstance(hint, Each) else hint]
        else:
            value = listed(hint, value)
            leaves, treedef = jax.tree_util.tree_flatten(value)
            if any(isinstance(leaf, Ref) for leaf in leaves):
                value, leaves, treedef = _without_refs(made, hint, value, leaves)
            if treedef != _LEAF and value is not None and isinstance(hint, ArrayHint) and hint.alone:
                raise self._no_array(name, value, hint)
            inside = self._inside(name, hint, value, treedef)
        constants: list[tuple[Any] | None] = []
        for leaf, leaf_hint in zip(leaves, inside, strict=True):
            leaf = leaf.__jax_array__() if hasattr(leaf, "__jax_array__") and not isinstance(leaf, ARRAYS) else leaf
            if isinstance(leaf, (*SHAPED, *NUMBERS)):
                made.values.append(leaf)
                made.fixed.append(spec_of(self.name, name, leaf, leaf_hint, made.x64))
                leaf_hints.append(leaf_hint)
                constants.append(None)
            elif isinstance(leaf_hint, ArrayHint) and leaf_hint.alone:
                raise self._no_array(name, leaf, leaf_hint)
            else:
                constants.append((leaf,))
        made.entries.append(Entry(name, treedef, tuple(constants)))
        keys = tuple(None if one is None else constant_key(name, one[0]) for one in constants)
        statics.append((name, treedef, keys))

    def _no_array(self, name: str, value: Any, hint: ArrayHint) -> WrongArguments:
        return WrongArguments(
            f"{self.name}: {name} has {value!r:.60}, annotated {hint.text}",
            hint="give an array, or numbers in lists of equal length",
        )

    def _inside(self, name: str, hint: Hint, value: Any, treedef: Any) -> list[Hint]:
        """What is said of each leaf; the same for all values of one structure."""
        known = self._known.get((name, treedef))
        if known is None:
            known = []
            _spread(hint, value, known)
            if len(self._known) > _KNOWN_MAX:
                self._known.clear()
            self._known[name, treedef] = known
        return known

    def _shape(self, made: Call, leaf_hints: list[Hint]) -> None:
        """Names for dimensions, where there are some, and whether the sizes agree."""
        specs = []
        shapes = [spec.shape for spec in made.fixed]
        named = False
        for index, (spec, hint) in enumerate(zip(made.fixed, leaf_hints, strict=True)):
            shape: Shape = spec.shape
            if isinstance(hint, ArrayHint):
                shape = self._matched(made, index, hint)
            elif self.batch and shape:
                shape = (_BATCH, *shape[1:])
            named = named or shape is not spec.shape
            specs.append(spec._replace(shape=shape) if shape is not spec.shape else spec)
        made.specs = specs
        if not named:
            return
        try:
            sizes = dims.sizes([spec.shape for spec in specs], shapes)  # type: ignore[arg-type]
        except dims.Misfit as error:
            self._misfit(made, error.index, f"asked for {dims.text(specs[error.index].shape)}", error.why)
        if 0 in sizes.values():  # A symbolic dimension is at least one: empty arrays have a program of their own.
            made.specs = made.fixed

    def _matched(self, made: Call, index: int, hint: ArrayHint) -> Shape:
        """The dimensions of one array as it is annotated."""
        spec = made.fixed[index]
        # What is annotated is an array of keys: the array of their data has one dimension more.
        at = len(spec.shape) - (spec.key is not None)
        try:
            return *hint.match(spec.shape[:at], index), *spec.shape[at:]  # type: ignore[arg-type]
        except dims.Misfit:
            if hint.alone:
                self._misfit(made, index, f"annotated {hint.text}", "")
            return spec.shape  # Something else that the annotation allows, such as a number.

    def _misfit(self, made: Call, index: int, wanted: str, why: str) -> None:
        given = dims.text(made.fixed[index].shape)
        why = f": {why}" if why else ""
        raise WrongArguments(
            f"{self.name}: {label(made, index)} has shape {given}, {wanted}{why}",
            hint="batch= joins calls along the leading dimension, which each call has, too: x[None] for a single row; "
            "map takes the rows of one array"
            if self.batch
            else "compare the shapes with the annotations of its parameters",
        )

    def spread(self, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments for the function itself from values by parameter; others stay out."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = False
        for name, one in self.full.parameters.items():
            if name not in given:
                by_name = True  # It keeps its default: what follows goes by its name.
            elif one.kind is one.VAR_POSITIONAL:
                args += given[name]
            elif one.kind is one.VAR_KEYWORD:
                kwargs.update(given[name])
            elif one.kind is one.KEYWORD_ONLY or (by_name and one.kind is not one.POSITIONAL_ONLY):
                kwargs[name] = given[name]
            else:
                args.append(given[name])
        return args, kwargs

    # --- without one

    def skeleton(self, x64: bool, defaults: bool) -> tuple[dict[str, Any], str]:
        """Arguments of the shapes and dtypes that annotations give, by parameter, with ``Shaped`` for arrays; and the
        name of the first parameter that they don't describe, or nothing.

        Parameters with defaults are left out; with ``defaults``, numbers annotated as such are arguments.
        """
        found: dict[str, Any] = {}
        for one in self.parameters:
            hint = self.hints[one.name]
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                continue
            if one.default is not one.empty and not (defaults and isinstance(hint, Number) and is_number(one.default)):
                continue
            try:
                found[one.name] = hints.skeleton(hint, functools.partial(shaped, x64=x64), one.name)
            except hints.Missing as missing:
                return found, missing.where
        return found, ""

    def defaults(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults of the parameters that a skeleton has nonetheless."""
        return {one.name: one.default for one in self.parameters if one.default is not one.empty and one.name in found}

    def call_of(self, found: Mapping[str, Any], x64: bool) -> Call:
        """The call that a skeleton stands for."""
        made = Call([], [], [], [], [], (), x64)
        statics: list[Hashable] = []
        for name, value in found.items():
            leaves, treedef = jax.tree_util.tree_flatten(value)
            constants: list[tuple[Any] | None] = []
            for leaf in leaves:
                if not isinstance(leaf, Shaped):
                    constants.append((leaf,))
                    continue
                shape = leaf.hint.shape(len(made.specs)) if isinstance(leaf.hint, ArrayHint) else ()
                assert shape is not None, leaf.hint
                made.specs.append(Spec(leaf.dtype, shape, leaf.weak))
                constants.append(None)
            made.entries.append(Entry(name, treedef, tuple(constants)))
            keys = tuple(None if one is None else constant_key(name, one[0]) for one in constants)
            statics.append((name, treedef, keys))
        made.fixed = made.specs
        made.static_key = tuple(statics)
        return made


def _positional(parameters: list[inspect.Parameter]) -> tuple[int, list[str]]:
    """How many values by position make a call, at least, and whose they are. The way of most calls: ``bind`` costs more."""
    found = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    for one in parameters:
        if one.kind is one.VAR_POSITIONAL or (one.kind is one.KEYWORD_ONLY and one.default is one.empty):
            return 1, []  # Some others take values, too, or need some.
    return sum(one.default is one.empty for one in found), [one.name for one in found]


def _hint_of(parameter: inspect.Parameter, annotation: Any) -> Hint:
    """What the annotation of a parameter says of its value; that of ``*args`` and ``**kwargs`` is said of each."""
    if annotation is not None and parameter.kind is parameter.VAR_POSITIONAL:
        return Inside(tuple[annotation, ...])
    if annotation is not None and parameter.kind is parameter.VAR_KEYWORD:
        return Inside(dict[str, annotation])
    return hints.read(annotation)


_LEAF = jax.tree_util.tree_structure(0)
_KNOWN_MAX = 256


def label(made: Call, index: int) -> str:
    """The name of array number ``index`` of a call: ``x``, ``batch['mask']``."""
    at = 0
    for entry in made.entries:
        here = [number for number, leaf in enumerate(entry.leaves) if leaf is None]
        if index < at + len(here):
            paths = jax.tree_util.tree_flatten_with_path(
                jax.tree_util.tree_unflatten(entry.treedef, range(len(entry.leaves)))
            )[0]
            return entry.name + jax.tree_util.keystr(paths[here[index - at]][0])
        at += len(here)
    raise AssertionError(index)


def _spread(hint: Hint, value: Any, found: list[Hint]) -> None:
    """What is said of each leaf of ``value``, in jax' order."""
    level = jax.tree_util.default_registry.flatten_one_level_with_keys(value)
    if level is None:
        found.append(hint.leaf if isinstance(hint, Each) else hint)
        return
    pairs = list(level[0])
    for place, (key, inner) in enumerate(pairs):
        _spread(hints.child(hint, value, key, place, len(pairs)), inner, found)


def _without_refs(made: Call, hint: Hint, value: Any, leaves: list[Any]) -> tuple[Any, list[Any], Any]:
    """``value`` with what its references stand for; notes which arrays they are."""
    from fleet._jax.arguments import arrays_of

    def there(ref: Ref[Any]) -> Any:
        return listed(hint, arrays_of(ref, hint)) if ref is value else arrays_of(ref, None)

    at = len(made.values)
    for leaf in leaves:
        if isinstance(leaf, Ref):
            count = len(jax.tree_util.tree_leaves(there(leaf)))
            made.refs.append((at, count, leaf))
            at += count
        elif isinstance(leaf, (*SHAPED, *NUMBERS)) or hasattr(leaf, "__jax_array__"):
            at += 1
    value = jax.tree_util.tree_map(lambda leaf: there(leaf) if isinstance(leaf, Ref) else leaf, value)
    leaves, treedef = jax.tree_util.tree_flatten(value)
    return value, leaves, treedef
