"""Rebuild functions that travelled as source, in any Python from 3.11 on, whatever Python they came from.

What a portable pickle (``_portable``) calls when it is loaded: in the sandbox, and here only to prove that a source
makes the code object that it was found for. Standard library only: the wasm guest has this file baked in.

A *group* is what one pickle holds by value: the function's own program (``PROGRAM``), or classes that came with
arguments, named by the digest of their bytes. Members of a group are numbered in the order in which they were taken
apart, so that later pickles name them by number, and a class is the same class however often it comes.
"""

from __future__ import annotations

import builtins
import copyreg
import importlib
import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, cast

from fleet._rebuild import annotate as _annotate

PROGRAM = ""
"""The group of the function itself."""

missing: Callable[[str], Any] | None = None
"""What stands in for a module that isn't here; None: its ImportError is raised."""

_groups: dict[str, dict[int, Any]] = {}
_loading: list[tuple[str, dict[int, Any], dict[str, Any]]] = []
"""Groups that are being loaded: name, members, classes by their mark."""
_program_classes: dict[str, Any] = {}
"""Classes of the program by their mark: a value that was put apart (``fleet.put``) may be of one of them."""


class _Unpickler(pickle.Unpickler):
    """Knows the sets of ``_portable`` (sorted, so that bytes are the same in every run), and what stands in."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._sets: dict[int, Any] = {}

    def persistent_load(self, pid: Any) -> Any:
        """``(kind, number, members)`` of a set or frozenset."""
        kind, number, members = pid
        if number not in self._sets:
            self._sets[number] = (frozenset if kind == "frozenset" else set)(members)
        return self._sets[number]

    def find_class(self, module_name: str, global_name: str) -> Any:
        """As ever; but what the sandbox lacks fails where it is used, not here."""
        try:
            return super().find_class(module_name, global_name)
        except (ImportError, AttributeError):
            if missing is None or module_name.partition(".")[0] not in sys.stdlib_module_names:
                raise
            return missing(f"{module_name}.{global_name}")


def load_program(data: bytes) -> Any:
    """The function of a program, from its portable pickle; raises what loading it raises."""
    forget()
    return _load(PROGRAM, data)


def forget() -> None:
    """Forget every group: a new program comes."""
    _groups.clear()
    _program_classes.clear()


def member(group: str, number: int, data: bytes | None = None) -> Any:
    """Member ``number`` of a group; ``data`` is the group's pickle, loaded where it isn't known yet."""
    if group not in _groups:
        assert data is not None, group
        _load(group, data)
    return _groups[group][number]


def _load(group: str, data: bytes) -> Any:
    members: dict[int, Any] = {}
    marked: dict[str, Any] = {}
    _loading.append((group, members, marked))
    try:
        stream = io.BytesIO(data)
        unpickler = _Unpickler(stream)
        value = unpickler.load()
        while stream.tell() < len(data):  # what one pickle could not hold: it would have been too deep
            set_function(*unpickler.load())
        if group == PROGRAM:
            _program_classes.update(marked)
        # Only a whole group is kept: what failed to load fails again, with the same words.
        _groups[group] = members
        return value
    finally:
        _loading.pop()


def known(number: int | None) -> Any:
    """What was made under ``number`` in the group that is being loaded (a cycle comes twice); None: nothing yet."""
    return _loading[-1][1].get(number) if _loading and number is not None else None


def keep(number: int | None, made: Any) -> Any:
    """Note ``made`` under its number; returns it."""
    if number is not None and _loading:
        _loading[-1][1][number] = made
    return made


def known_class(number: int, mark: str) -> Any:
    """The same for a class, or the class of the program with this mark."""
    found = known(number)
    if found is None and mark in _program_classes:
        found = keep(number, _program_classes[mark])
    return found


def keep_class(number: int, mark: str, made: Any) -> Any:
    """Note a class under its number and its mark; returns it."""
    if _loading:
        _loading[-1][2].setdefault(mark, made)
    return keep(number, made)


def is_of_program(made: Any) -> bool:
    """Whether a class is one of a program that is loaded: it stays as it is."""
    return any(made is one for one in _program_classes.values())


# --- functions


def namespace(name: str, package: str | None, importable: bool) -> dict[str, Any]:
    """A module's globals, to be filled by the functions that use them; ``importable``: as that module, if none is here."""
    made = types.ModuleType(name)
    made.__package__ = package
    made.__dict__["__builtins__"] = builtins
    if importable:
        sys.modules.setdefault(name, made)
    return made.__dict__


def module(name: str) -> Any:
    """A module; what the standard library lacks here fails where it is used."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if missing is None or name.partition(".")[0] not in sys.stdlib_module_names:
            raise
        return missing(name)


def module_globals(name: str) -> dict[str, Any]:
    """The globals of a module that is imported by its name."""
    return vars(importlib.import_module(name))


def function(
    number: int | None,
    made: types.CodeType,
    where: dict[str, Any],
    cells: tuple[types.CellType, ...] = (),
    free: tuple[str, ...] = (),
) -> types.FunctionType:
    """A function without what may refer back to it (``set_function``); ``cells`` of its ``free`` names."""
    found = known(number)
    if found is None:
        if made.co_freevars != free:  # annotations that aren't evaluated count in some Pythons, and not in others
            given = dict(zip(free, cells))
            cells = tuple(given[name] for name in made.co_freevars)
        found = keep(number, types.FunctionType(made, where, None, None, cells or None))
    return cast("types.FunctionType", found)


def set_function(made: types.FunctionType, state: dict[str, Any]) -> None:
    """The rest of a function: globals and cells that no function before it has filled, and its attributes."""
    for name in state.pop("submodules", ()):
        module(name)
    where = made.__globals__
    for name, value in state.pop("globals", ()):
        where[name] = value
    for cell, value in state.pop("cells", ()):
        cell.cell_contents = value
    made.__dict__.update(state.pop("attributes", {}))
    for name, value in state.items():
        setattr(made, name, value)
    if "__annotations__" in state:
        _annotate.annotate(made, state["__annotations__"])


def bare(number: int | None, cls: type) -> Any:
    """An instance without attributes, of a class whose own reduction is a name."""
    found = known(number)
    return keep(number, copyreg.__newobj__(cls)) if found is None else found  # type: ignore[attr-defined]


def cell() -> types.CellType:
    """An empty cell; the function that it came with fills it."""
    return types.CellType()


def fleet_function(number: int | None, is_async: bool) -> Any:
    """A ``fleet.Function``, empty."""
    from fleet._function import AsyncFunction, Function

    found = known(number)
    kind = AsyncFunction if is_async else Function
    return keep(number, kind.__new__(kind)) if found is None else found


def set_fleet_function(made: Any, state: tuple[Any, str | None]) -> None:
    """The function it wraps and its app; options say how a car is found, they don't travel."""
    from fleet.protocol.options import Options

    raw, app = state
    made.__init__(raw, Options(), app)
