"""Dataclasses, whose methods Python writes itself and keeps no source of."""

import dataclasses
from dataclasses import KW_ONLY, InitVar, asdict, astuple, dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, TypeVar

from tests.conformance.case import case, made

T = TypeVar("T")


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Frozen:
    name: str
    tags: tuple = ()


@dataclass(order=True)
class Ranked:
    rank: int
    name: str = field(compare=False)


@dataclass(slots=True)
class Slotted:
    a: int
    b: list = field(default_factory=list)


@dataclass(kw_only=True)
class Keywords:
    left: int
    right: int = 2


@dataclass
class Mixed:
    a: int
    _: KW_ONLY
    b: int = 5


@dataclass
class Computed:
    side: float
    factor: InitVar[float] = 1.0
    area: float = field(init=False)
    count: ClassVar[int] = 0

    def __post_init__(self, factor):
        self.area = self.side**2 * factor
        type(self).count += 1


@dataclass
class Base:
    name: str
    level: int = 1

    def describe(self):
        return f"{self.name}@{self.level}"


@dataclass
class Derived(Base):
    extra: str = "none"

    def describe(self):
        return super().describe() + f"+{self.extra}"


@dataclass(eq=False)
class ByIdentity:
    n: int


@dataclass(repr=False)
class OwnRepr:
    secret: str = field(repr=False)

    def __repr__(self):
        return "OwnRepr(hidden)"


@dataclass
class Hidden:
    user: str
    password: str = field(repr=False, default="pw")


@dataclass(unsafe_hash=True)
class Hashed:
    a: int
    b: int = field(hash=False, default=0)


@dataclass(match_args=False)
class NoMatch:
    a: int


@dataclass
class Box(Generic[T]):
    value: T


@dataclass
class Tree:
    value: int
    children: "list[Tree]" = field(default_factory=list)

    def total(self):
        return self.value + sum(child.total() for child in self.children)


@dataclass(frozen=True, slots=True, order=True)
class Everything:
    a: int
    b: str = "b"


@case("a dataclass")
def plain():
    return repr(Point(1, 2)), Point(1) == Point(1, 0), Point(1) != Point(2)


@case("a frozen dataclass as a key")
def frozen():
    return {Frozen("a", ("t",)): 1}[Frozen("a", ("t",))], hash(Frozen("a")) == hash(Frozen("a"))


@case("assignment to a frozen dataclass", raises=dataclasses.FrozenInstanceError)
def frozen_assignment():
    Frozen("a").name = "b"


@case("the order of dataclasses")
def ordered():
    return [one.name for one in sorted([Ranked(2, "b"), Ranked(1, "z")])], Ranked(1, "a") <= Ranked(1, "b")


@case("a dataclass with slots")
def slots():
    one, other = Slotted(1), Slotted(2)
    one.b.append("x")
    return repr(one), other.b, hasattr(one, "__dict__"), Slotted.__slots__


@case("a dataclass of keywords only")
def keyword_only():
    return repr(Keywords(left=1)), repr(Keywords(right=3, left=4))


@case("keyword-only fields behind KW_ONLY", raises=TypeError)
def behind_kw_only():
    assert Mixed(1, b=2).b == 2
    return Mixed(1, 2)


@case("__post_init__, InitVar, ClassVar and computed fields")
def computed():
    one = Computed(3.0, factor=2.0)
    return one.area, repr(one), Computed.count, [f.name for f in fields(one)]


@case("a dataclass that inherits another's fields")
def inherits():
    return repr(Derived("n", extra="e")), Derived("n", 2).describe(), [f.name for f in fields(Derived)]


@case("a dataclass without __eq__")
def by_identity():
    one = ByIdentity(1)
    return one == ByIdentity(1), one == one, repr(one)


@case("a dataclass with a __repr__ of its own")
def own_repr():
    return repr(OwnRepr("s")), repr(Hidden("u"))


@case("a dataclass with a hash of chosen fields")
def hashed():
    return hash(Hashed(1, 2)) == hash(Hashed(1, 3)), Hashed(1, 2) == Hashed(1, 3)


@case("a dataclass without __match_args__")
def no_match_args():
    return hasattr(NoMatch, "__match_args__"), Point.__match_args__


@case("a generic dataclass")
def generic():
    return Box[int](5).value, repr(Box("a"))


@case("a dataclass that refers to itself")
def recursive():
    return Tree(1, [Tree(2), Tree(3, [Tree(4)])]).total()


@case("asdict, astuple and replace")
def conversions():
    tree = Tree(1, [Tree(2)])
    return asdict(tree), astuple(tree), repr(replace(Point(1, 2), y=9))


@case("a dataclass as an argument", Derived("given", 7, "x"))
def as_argument(one):
    return one.describe(), type(one) is Derived


@case("every option of a dataclass at once", Everything(2))
def everything(one):
    return repr(one), one < Everything(3), one in {Everything(2)}, replace(one, b="c").b


@case("metadata and defaults of fields")
def field_data():
    @dataclass
    class Described:
        size: float = field(default=1.5, metadata={"unit": "m"})
        parts: list[int] = field(default_factory=lambda: [1, 2])

    first, second = fields(Described)
    return first.default, dict(first.metadata), second.default is dataclasses.MISSING, Described().parts


@case("make_dataclass")
def by_maker():
    kind = dataclasses.make_dataclass("Made", [("a", int), ("b", int, 5)], namespace={"sum": lambda s: s.a + s.b})
    return repr(kind(1)), kind(1).sum()


@case("a mutable default that dataclasses refuse", raises=ValueError)
def mutable_default():
    @dataclass
    class Bad:
        values: list = []

    return Bad()


@made("a dataclass of a function's own scope", 3)
def local_dataclass():
    offset = 10

    @dataclass
    class Local:
        n: int

        def moved(self):
            return self.n + offset

    def call(n):
        return Local(n).moved(), repr(Local(n)), Local(n) == Local(n)

    return call


@case("a dataclass with a property and a class method")
def with_methods():
    @dataclass
    class Rect:
        w: float
        h: float

        @property
        def area(self):
            return self.w * self.h

        @classmethod
        def square(cls, side):
            return cls(side, side)

    return Rect.square(3).area, repr(Rect.square(1))


@case("a dataclass with an __init__ of its own")
def own_init():
    @dataclass(init=False)
    class Made:
        total: int

        def __init__(self, *numbers):
            self.total = sum(numbers)

    return repr(Made(1, 2, 3))


@case("is_dataclass, and type hints of a dataclass")
def hints():
    import typing

    return dataclasses.is_dataclass(Point), dataclasses.is_dataclass(Point(1)), typing.get_type_hints(Point)["x"] is int


@case("a frozen child of a frozen dataclass")
def frozen_child():
    @dataclass(frozen=True)
    class Child(Frozen):
        depth: int = 0

    return repr(Child("a", depth=2)), Child("a") == Frozen("a")


@case("a dataclass with fields of any type and a default None")
def any_fields():
    @dataclass
    class Loose:
        value: Any = None
        more: "dict[str, Any] | None" = None

    return repr(Loose({"a": [1]})), Loose() == Loose(None, None)
