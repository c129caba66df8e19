"""The portable pickler: functions and classes that no module of the sandbox holds travel as source.

A pickle made here refers to the standard library, to ``fleet._rebuild`` and to modules that the sandbox has; no code
object and nothing of a third party's pickler is in it. The same objects make the same bytes in every run.

Errors: ``CannotTravel`` and ``NoSource`` name what; the caller finds where (``blame``).
"""

from __future__ import annotations

import ast
import copyreg
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fleet._function import AsyncFunction, Function
from fleet._imports import imports_in
from fleet._portable import classes as _portable_classes
from fleet._portable import kinds as _portable_kinds
from fleet._portable import source as _source
from fleet._portable.notes import names_noted, portable_notes
from fleet._portable.world import MAIN, CannotTravel, World, lacking, named, way_to
from fleet._rebuild import functions as _rebuild
from fleet._rebuild import kinds as _rebuild_kinds
from fleet._rebuild import segments as _segments
from fleet._ref import Ref
from fleet._resources import is_reader, mentions_reader, names_in

PROTOCOL = 5
_REDUCE_EX: Any = object.__reduce_ex__
_REDUCE: Any = object.__reduce__
_PLAIN = (int, float, str, bytes, bool, type(None))
_NOT_CARRIED = frozenset({"__builtins__", "__name__", "__package__", "__annotations__", "__annotate__"})

Known = Mapping[int, tuple[str, int, bytes | None]]
"""By ``id``: the group, the number in it, and its pickle where the sandbox may lack it."""


class Proxy:
    """Stands for what is no object here: pickled once, as a call of ``_rebuild``."""

    __slots__ = ("args", "call")

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call = call
        self.args = args


class Session:
    """One pickle: what it holds by value, and what earlier pickles hold already (``known``).

    ``numbered``: members get numbers, so that later pickles can name them; then sets are sorted, too. ``late``: where
    classes go that aren't known, if not into this pickle. ``refs`` gathers the values of ``fleet.put``; None: only
    arguments may hold some.
    """

    def __init__(
        self, world: World, known: Known, *, numbered: bool, late: Callable[[type], tuple[Any, ...]] | None = None,
        refs: dict[str, Ref[Any]] | None = None, importable_main: bool = False,
    ) -> None:  # fmt: skip
        self.world = world
        self.known = known
        self.numbered = numbered
        self.late = late
        self.refs = refs
        self.importable_main = importable_main
        self._begin()

    def _begin(self) -> None:
        self.later: list[tuple[types.FunctionType, dict[str, Any]]] | None = None
        """Functions whose state comes after the value, where one leads to the next without end."""
        self.members: list[Any] = []
        self.classes: dict[tuple[str, str], type] = {}
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []
        self._proxies: dict[Any, Proxy] = {}
        self._sent: set[tuple[int, str]] = set()
        self._cells: set[int] = set()
        self._sets: dict[int, int] = {}

    def dumps(self, value: Any) -> bytes:
        """The pickle of ``value``; of a group that is too deep for one, several in a row."""
        out = io.BytesIO()
        if not self.numbered:
            _Portable(out, self).dump(value)
            return out.getvalue()
        try:
            _Sorting(out, self).dump(value)
        except RecursionError:
            self._begin()
            self.later = []
            out = io.BytesIO()
            pickler = _Sorting(out, self)
            pickler.dump(value)
            while self.later:
                states, self.later = self.later, []
                for state in states:
                    pickler.dump(state)
        return out.getvalue()

    def number(self, obj: Any) -> int | None:
        """The member's number in its group; None where groups aren't kept."""
        if not self.numbered:
            return None
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.members)
            self.members.append(obj)
        return self._numbers[id(obj)]

    def set_number(self, obj: Any) -> int:
        """A number for a set, the same for the same set."""
        self._kept.append(obj)
        return self._sets.setdefault(id(obj), len(self._sets))

    def proxy(self, key: Any, call: Callable[..., Any], *args: Any) -> Proxy:
        """The one proxy for ``key``."""
        if key not in self._proxies:
            self._proxies[key] = Proxy(call, *args)
        return self._proxies[key]

    def namespace(self, where: Mapping[str, Any], home: str) -> Proxy:
        """The globals of a module that travels by value."""
        importable = self.importable_main and home == "__main__"
        package = where.get("__package__") or None
        return self.proxy(("namespace", id(where)), _rebuild.namespace, home, package, importable)

    def first_use(self, where: Mapping[str, Any], name: str) -> bool:
        """Whether no function of this pickle has sent this global yet."""
        key = (id(where), name)
        first = key not in self._sent
        self._sent.add(key)
        return first

    def first_cell(self, cell: types.CellType) -> bool:
        """Whether no function of this pickle has filled this cell yet."""
        first = id(cell) not in self._cells
        self._cells.add(id(cell))
        self._kept.append(cell)
        return first

    def imported_in(self, function: types.FunctionType, place: _source.Place) -> None:
        """Note the own modules that a function's body imports."""
        package = str(function.__globals__.get("__package__") or "")
        used = (function.__globals__.get(name) for name in _source.names_used(function.__code__).globals)
        if any(is_reader(value) for value in used) or mentions_reader(place.text.encode()):
            self.world.read |= {name or package for name in names_in(_source.tree_of(place))} - {""}
        for name in imports_in(_source.tree_of(place), package):
            for part in (name, name.rpartition(".")[0]):
                if part and self.world.has(part):
                    break


class _Portable(pickle.Pickler):
    def __init__(self, out: io.BytesIO, session: Session) -> None:
        super().__init__(out, protocol=PROTOCOL)
        self._session = session

    def reducer_override(self, obj: Any) -> Any:
        """Values of the exact built-in types never come here: they are written at C speed."""
        session = self._session
        take = _TAKE.get(type(obj))
        if take is not None:
            return take(session, obj)
        if isinstance(obj, type):
            return take_class(session, obj)
        if isinstance(obj, Function):
            return take_fleet_function(session, obj)
        session.world.check_instance(type(obj))
        kind: Any = type(obj)
        if kind.__reduce_ex__ is not _REDUCE_EX or kind.__reduce__ is not _REDUCE:
            return take_reduced(session, obj)
        return NotImplemented


class _Sorting(_Portable):
    def persistent_id(self, obj: Any) -> Any:
        """Sets of plain values in sorted order: Python's own order differs from run to run."""
        kind: Any = type(obj)
        if (kind is set or kind is frozenset) and len(obj) > 1 and all(type(one) in _PLAIN for one in obj):
            members = sorted(obj, key=lambda one: (type(one).__name__, repr(one)))
            return kind.__name__, self._session.set_number(obj), members
        return None


def take_class(session: Session, obj: type) -> Any:
    """A class: as known already, by name, or taken apart."""
    known = session.known.get(id(obj))
    if known is not None:
        return _rebuild.member, known
    if obj in _portable_kinds.UNNAMED_TYPES:
        return _rebuild_kinds.builtin_type, (_portable_kinds.UNNAMED_TYPES[obj],)
    public = _public_home(obj)
    if public is not None:
        return getattr, (public, obj.__name__)
    if obj.__module__ == "builtins" or session.world.by_name(obj, f"the class {obj.__module__}.{obj.__qualname__}"):
        return NotImplemented
    if session.late is not None:
        return _rebuild.member, session.late(obj)
    session.classes[obj.__module__, obj.__qualname__] = obj
    return _portable_classes.take_apart(session, obj)


def _public_home(obj: type) -> types.ModuleType | None:
    """The package above a private module of the standard library that has the class, too: private ones come and go."""
    package, _, last = obj.__module__.rpartition(".")
    if not package or not last.startswith("_") or package.partition(".")[0] not in sys.stdlib_module_names:
        return None
    found = sys.modules.get(package)
    return found if getattr(found, obj.__name__, None) is obj else None


def take_function(session: Session, obj: types.FunctionType) -> Any:
    """A Python function: as known already, by name, as its maker makes it, or by source."""
    known = session.known.get(id(obj))
    if known is not None:
        return _rebuild.member, known
    module = obj.__module__ or "builtins"
    if session.world.by_name(obj, f"the function {module}.{obj.__qualname__}"):
        return NotImplemented
    if module not in MAIN and session.world.has(module):
        for owner, attribute in way_to(obj, module):
            return getattr, (owner, attribute)
    made = _portable_kinds.made_by_stdlib(session, obj)
    return _by_source(session, obj) if made is None else made


def _by_source(session: Session, obj: types.FunctionType) -> Any:
    code, where = obj.__code__, obj.__globals__
    home = str(where.get("__name__") or "__main__")
    module = sys.modules.get(home)
    is_real = module is not None and vars(module) is where and home not in MAIN
    shown = None
    if is_real and session.world.has(home):
        space = session.proxy(("globals", home), _rebuild.module_globals, home)
        shown = _shown_in_bundle(module, home)
    elif is_real and session.world.is_foreign(home):
        raise lacking(f"the function {home}.{obj.__qualname__}", home, about=obj)
    else:
        is_real = False
        space = session.namespace(where, home)
    place = _source.locate(obj, shown)
    session.imported_in(obj, place)
    segment = session.proxy(("segment", place.segment()), _segments.segment, *place.segment())
    flags = code.co_flags & (_segments.FUTURE_ANNOTATIONS | _segments.ITERABLE_COROUTINE)
    made = session.proxy(
        ("code", id(code), place), _segments.code, segment, place.index, code.co_freevars, flags, code.co_qualname
    )
    cells = obj.__closure__ or ()
    state = _attributes(session, obj, home)
    fresh = [cell for cell in cells if session.first_cell(cell)]
    if fresh:
        state["cells"] = [(cell, cell.cell_contents) for cell in fresh if not _portable_classes.is_empty(cell)]
    if not is_real:
        state.update(_globals_used(session, obj, _source.tree_of(place)))
    arguments: tuple[Any, ...] = (session.number(obj), made, space)
    if cells:
        arguments += (cells, code.co_freevars)
    if session.later is not None:
        session.later.append((obj, state))
        return _rebuild.function, arguments
    return _rebuild.function, arguments, state, None, None, _rebuild.set_function


def _shown_in_bundle(module: Any, name: str) -> str:
    """The file name that tracebacks on the car show for a module of the bundle."""
    path = name.replace(".", "/")
    return f"{path}/__init__.py" if hasattr(module, "__path__") else f"{path}.py"


def _attributes(session: Session, obj: types.FunctionType, home: str) -> dict[str, Any]:
    """What differs from a function just made of its code object."""
    code = obj.__code__
    bare = types.FunctionType(code, {}, None, None, obj.__closure__)
    state: dict[str, Any] = {}
    if obj.__defaults__:
        state["__defaults__"] = obj.__defaults__
    if obj.__kwdefaults__:
        state["__kwdefaults__"] = obj.__kwdefaults__
    if obj.__name__ != bare.__name__:
        state["__name__"] = obj.__name__
    if obj.__qualname__ != bare.__qualname__:
        state["__qualname__"] = obj.__qualname__
    if obj.__module__ != home:
        state["__module__"] = obj.__module__
    if obj.__doc__ != bare.__doc__:
        state["__doc__"] = obj.__doc__
    notes = portable_notes(session.world, obj, deep=False)
    if notes:
        state["__annotations__"] = notes
    if getattr(obj, "__type_params__", ()):
        state["__type_params__"] = obj.__type_params__  # type: ignore[attr-defined,unused-ignore]
    if vars(obj):
        state["attributes"] = dict(getattr(obj, "__dict__", {}))
    return state


def _globals_used(session: Session, obj: types.FunctionType, tree: ast.AST) -> dict[str, Any]:
    """Values of the globals that the function's code names, and submodules that it reaches through modules."""
    where = obj.__globals__
    found: list[tuple[str, Any]] = []
    below: set[str] = set()
    names = _source.names_used(obj.__code__)
    for name in names.globals:
        if name not in where or name in _NOT_CARRIED:
            continue
        value = where[name]
        if type(value) is types.ModuleType:
            below.update(_submodules(session, value, names.all))
        if session.first_use(where, name):
            found.append((name, _plain_global(name, value)))
    if any(isinstance(one, types.CodeType) for one in obj.__code__.co_consts):
        noted = names_noted(session.world, tree, where)
        found += [(name, value) for name, value in noted.items() if session.first_use(where, name)]
    state: dict[str, Any] = {"globals": found} if found else {}
    if below:
        state["submodules"] = tuple(sorted(below))
    return state


def _plain_global(name: str, value: Any) -> Any:
    if name in ("__spec__", "__loader__"):
        return None
    return _source.shown_name(value) if name == "__file__" and isinstance(value, str) else value


def _submodules(session: Session, module: types.ModuleType, names: frozenset[str]) -> Iterator[str]:
    """``a.b`` of a global ``a``: importing ``a`` alone doesn't bring it."""
    start = module.__name__ + "."
    for name in list(sys.modules):
        if name.startswith(start) and names.issuperset(name[len(start) :].split(".")) and session.world.has(name):
            yield name


def take_fleet_function(session: Session, obj: Function[..., Any]) -> Any:
    """A ``fleet.Function``: by name where one leads to it, else what it wraps."""
    if obj._raw is None:
        return NotImplemented
    known = session.known.get(id(obj))
    if known is not None:
        return _rebuild.member, known
    module = str(getattr(obj, "__module__", ""))
    if module not in MAIN and named(obj, module) is obj and session.world.has(module):
        return obj.__qualname__
    number = session.number(obj)
    arguments = (number, isinstance(obj, AsyncFunction))
    return _rebuild.fleet_function, arguments, (obj._raw, obj._app), None, None, _rebuild.set_fleet_function


def take_module(session: Session, obj: types.ModuleType) -> Any:
    """A module, which is imported there."""
    if not session.world.has(obj.__name__):
        if session.world.is_foreign(obj.__name__):
            raise lacking(f"the module {obj.__name__}", obj.__name__, about=obj)
        raise CannotTravel(
            f"the module {obj.__name__}",
            "is not part of the function's bundle",
            "import it in the function's own file",
        )
    return _rebuild.module, (obj.__name__,)


def take_reduced(session: Session, obj: Any) -> Any:
    """An instance that says how it is reduced; where that is a name that the sandbox lacks, it goes as it is."""
    if session.world.has(type(obj).__module__) or type(obj) in copyreg.dispatch_table:
        return NotImplemented
    known = session.known.get(id(obj))
    if known is not None:
        return _rebuild.member, known
    reduced = obj.__reduce_ex__(PROTOCOL)
    if not isinstance(reduced, str):
        return reduced
    return _rebuild.bare, (session.number(obj), type(obj)), dict(getattr(obj, "__dict__", {}))


def take_ref(session: Session, obj: Ref[Any]) -> Any:
    """A value of ``fleet.put``: the car gets those that a call names."""
    if session.refs is None:
        raise CannotTravel("a fleet.Ref", "only arguments can hold", "pass it to the function as an argument")
    session.refs[obj.digest] = obj
    return NotImplemented


def take_proxy(_session: Session, obj: Proxy) -> Any:
    """What only exists there."""
    return obj.call, obj.args


_TAKE: dict[type, Callable[[Session, Any], Any]] = {
    Proxy: take_proxy,
    Ref: take_ref,
    type: take_class,
    types.FunctionType: take_function,
    types.ModuleType: take_module,
    **_portable_kinds.TAKE,
}
