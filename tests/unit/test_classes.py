"""Which classes results may be made of: the return annotation's, the travelled ones, the caller's own; no others."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import json
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import pydantic
import pytest

import fleet
from fleet._classes import ANY_OWN, Classes, own_class, records
from fleet._results import decode_item
from fleet.cli import show
from fleet.protocol.codec import encode
from fleet.protocol.errors import ResultNotPortable


@dataclasses.dataclass
class Leaf:
    x: int


@dataclasses.dataclass
class Branch:
    leaves: list[Leaf]
    other: "Forward | None" = None  # noqa: UP037


@dataclasses.dataclass
class Forward:
    back: Branch


class Pair(NamedTuple):
    leaf: Leaf


class Table(TypedDict, total=False):
    leaf: Leaf


class Colour(enum.Enum):
    RED = 1


class Outer:
    class Nested:
        pass


class Model(pydantic.BaseModel):
    pair: Pair


Alias = NewType("Alias", Leaf)
Bound = TypeVar("Bound", bound=Leaf)


def plain() -> Leaf: ...
def optional() -> Optional[Leaf]: ...  # noqa: UP045
def union() -> int | Leaf: ...
def generic() -> dict[str, list[tuple[int, Leaf]]]: ...
def annotated() -> Annotated[Leaf, "note"]: ...
def quoted() -> "list['Leaf']": ...  # noqa: UP037
def nested() -> Branch: ...
def round_about() -> Forward: ...
def pair() -> Pair: ...
def table() -> list[Table]: ...
def model() -> Model: ...
def alias() -> Alias: ...
def bound(x: Bound) -> Bound: ...
def callback() -> typing.Callable[[Leaf], None]: ...
def iterator() -> typing.Iterator[Leaf]: ...
async def later() -> typing.AsyncIterator[Leaf]: ...
def partly() -> tuple[Leaf, Missing]: ...  # type: ignore[name-defined]  # noqa: F821
def literal() -> Literal[Colour.RED]: ...


FOUND = [plain, optional, union, generic, annotated, quoted, nested, round_about, pair, table, model, alias, bound,
         callback, iterator, later]  # fmt: skip


@pytest.mark.parametrize("raw", FOUND, ids=lambda raw: raw.__name__)
def test_the_return_annotation_is_followed(raw: Any) -> None:
    assert Classes(raw)._annotated[__name__, "Leaf"] is Leaf
    assert Classes(fleet.function(raw)._raw)._annotated[__name__, "Leaf"] is Leaf
    assert Classes(functools.partial(raw))._annotated[__name__, "Leaf"] is Leaf


def test_members_of_literals_bring_their_enum() -> None:
    assert Classes(literal)._annotated[__name__, "Colour"] is Colour


def test_an_annotation_that_can_not_be_evaluated_is_no_error() -> None:
    assert Classes(partly).find(0, __name__, "Leaf") is Leaf  # as one of an own module
    assert Classes(print).find(0, "nowhere", "Leaf") is None


def test_local_classes_are_found_where_a_closure_or_the_annotation_holds_them() -> None:
    @dataclasses.dataclass
    class Local:
        x: int = 1

    def of_closure() -> Any:
        return Local()

    def of_annotation():  # type: ignore[no-untyped-def]
        return None

    of_annotation.__annotations__["return"] = Local
    for raw in (of_closure, of_annotation):
        assert decode_item(encode(Local(3), prefix=b"\0"), Classes(raw)) == Local(3)
    with pytest.raises(ResultNotPortable, match=r"<locals>.Local, which is not known here"):
        decode_item(encode(Local(3), prefix=b"\0"))


def test_installed_packages_count_only_where_they_are_annotated() -> None:
    kind = type("Thing", (), {"__annotations__": {"x": int}, "__module__": "installed.things"})
    thing = dataclasses.dataclass(kind)
    module = types.ModuleType("installed.things")
    module.Thing = thing  # type: ignore[attr-defined]
    module.__file__ = str(Path(pydantic.__file__).parent / "things.py")
    sys.modules["installed.things"] = module
    try:
        assert own_class("installed.things", "Thing") is None

        def made() -> thing: ...  # type: ignore[valid-type]

        made.__annotations__["return"] = list[thing]  # type: ignore[valid-type]
        assert Classes(made).find(0, "installed.things", "Thing") is thing
        module.__file__ = "/home/me/things.py"
        assert own_class("installed.things", "Thing") is thing
    finally:
        del sys.modules["installed.things"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (__name__, "collections.Counter"), (__name__, "json"), (__name__, "plain"), (__name__, "Path"), (__name__, "FOUND"),
        (__name__, "Colour.RED"), (__name__, "Leaf.__init__"), (__name__, "Leaf.__class__"), ("json", "JSONDecoder"),
        ("fleet", "Retries"), ("fleet._ticket", "Ticket"), ("sys", "stdout"), ("builtins", "int"), ("not.imported", "X"),
    ],
)  # fmt: skip
def test_other_names_are_not_found(module: str, name: str) -> None:
    assert own_class(module, name) is None


def test_nested_classes_are_found() -> None:
    assert own_class(__name__, "Outer.Nested") is Outer.Nested


def test_no_hook_of_a_module_or_class_is_run() -> None:
    asked = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            asked.append(name)
            return super().__getattribute__(name)

    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            raise AttributeError(name)

    outer = Meta("Outer", (), {"__module__": "lazy_module"})
    module = Lazy("lazy_module")
    module.__file__, module.Outer = "/home/me/lazy_module.py", outer  # type: ignore[attr-defined]
    sys.modules["lazy_module"] = module
    asked.clear()
    try:
        assert own_class("lazy_module", "Missing") is None and own_class("lazy_module", "Outer.Inner") is None
        assert own_class("lazy_module", "Outer") is outer
        assert asked == ["__qualname__"] or asked == []
    finally:
        del sys.modules["lazy_module"]


def test_a_script_s_classes_are_found_under_its_name_here() -> None:
    told = encode(Leaf(4), prefix=b"\0")
    wire = told.replace(bytes((0xA0 | len(__name__),)) + __name__.encode(), b"\xa8__main__")
    assert wire != told
    assert decode_item(wire, Classes(plain)) == Leaf(4)
    assert decode_item(wire, Classes(lambda: None)) == Leaf(4)
    with pytest.raises(ResultNotPortable):
        decode_item(wire, ANY_OWN)


def test_records_are_for_looking_at(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclasses.dataclass
    class Local:
        x: Any
        y: Any = None

    data = encode([Local(1, {(1, 2): {3}}), collections.deque([Local(None)])], prefix=b"\0")
    with records():
        found = decode_item(data)
    show.result(found, as_json=False)
    assert capsys.readouterr().out.strip().endswith("Local(x=None, y=None)])]")
    show.result(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"x": 1, "y": {"[1, 2]": [3]}}, [{"x": None, "y": None}]]
    with pytest.raises(ResultNotPortable):
        decode_item(data)


def test_all_kinds_can_be_shown_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.unit import codec_corpus as corpus

    for value in corpus.everything():
        show.result(value, as_json=True)
        assert capsys.readouterr().out


def test_importing_fleet_imports_none_of_it() -> None:
    code = "import fleet, sys; print([m for m in ('fleet._classes', 'fleet.protocol.codec', 'zoneinfo') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
