"""Enumerations."""

import enum
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum, auto, unique

from tests.conformance.case import case, made


class Color(Enum):
    RED = 1
    GREEN = 2
    BLUE = 3
    CRIMSON = 1

    @property
    def warm(self):
        return self is Color.RED


class Level(IntEnum):
    LOW = 1
    HIGH = 10


class Mode(StrEnum):
    READ = auto()
    WRITE = "w"


class Permission(Flag):
    READ = auto()
    WRITE = auto()
    RUN = auto()
    ALL = READ | WRITE | RUN


class Bits(IntFlag):
    A = 1
    B = 2


class Planet(Enum):
    EARTH = (5.97e24, 6.37e6)
    MARS = (6.42e23, 3.39e6)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius

    def gravity(self):
        return round(6.674e-11 * self.mass / self.radius**2, 2)


class Coded(bytes, Enum):
    def __new__(cls, value, label):
        one = bytes.__new__(cls, [value])
        one._value_ = value
        one.label = label
        return one

    PX = (0, "P.X")
    PY = (1, "P.Y")


class Weekday(Enum):
    MONDAY = "mon"
    SUNDAY = "sun"

    @classmethod
    def _missing_(cls, value):
        return next((day for day in cls if day.name == str(value).upper()), None)


@case("an enum: by value, by name, in order")
def plain():
    return Color(1).name, Color["BLUE"].value, [color.name for color in Color], len(Color), repr(Color.RED)


@case("aliases of an enum")
def aliases():
    return Color.CRIMSON is Color.RED, list(Color.__members__), Color.CRIMSON.name


@case("members are compared by identity")
def identity():
    return Color.RED == Color.RED, Color.RED == 1, Color.RED in {Color.RED}, Color(2) is Color.GREEN


@case("a property of an enum")
def with_property():
    return [color.warm for color in Color]


@case("an unknown value of an enum", raises=ValueError)
def unknown():
    return Color(9)


@case("an unknown name of an enum", raises=KeyError)
def unknown_name():
    return Color["PINK"]


@case("IntEnum counts as an int")
def int_enum():
    return Level.HIGH + 1, Level.LOW < Level.HIGH, sorted([Level.HIGH, Level.LOW])[0].name, int(Level(10))


@case("StrEnum counts as a str")
def str_enum():
    return Mode.READ.value, f"{Mode.WRITE}", Mode.READ.upper(), Mode("w").name, "read" == Mode.READ


@case("flags are combined and taken apart")
def flags():
    both = Permission.READ | Permission.WRITE
    return both.value, Permission.READ in both, (Permission.ALL & ~both).name, bool(Permission(0)), len(list(both))


@case("IntFlag with values beyond its members")
def int_flags():
    return (Bits.A | Bits.B).value, Bits(7).value & 4, Bits.A | 8, (Bits.A ^ Bits.A).value


@case("members with several values and methods")
def planets():
    return [planet.gravity() for planet in Planet], Planet((5.97e24, 6.37e6)).name


@case("members made by __new__")
def own_new():
    return Coded.PY.label, bytes(Coded.PY), Coded(0).name


@case("_missing_ finds a member")
def missing():
    return Weekday("monday").name, Weekday("sun").name


@case("enum members as an argument", [Color.GREEN, Level.LOW, Permission.RUN])
def as_argument(members):
    color, level, permission = members
    return color is Color.GREEN, level is Level.LOW, permission in Permission.ALL


@case("enum members as keys", {Color.RED: "r", Color.BLUE: "b"})
def as_keys(table):
    return [table.get(color, "-") for color in Color]


@case("an enum made by a call")
def functional():
    animal = Enum("Animal", "CAT DOG")
    named = IntEnum("Named", {"ONE": 1, "TWO": 2})
    return [one.value for one in animal], animal.CAT.name, named.TWO + 1


@case("unique refuses aliases", raises=ValueError)
def unique_members():
    @unique
    class Twice(Enum):
        A = 1
        B = 1

    return Twice


@case("auto with _generate_next_value_")
def generated():
    class Lower(Enum):
        @staticmethod
        def _generate_next_value_(name, start, count, last):
            return f"{name.lower()}{count}"

        FIRST = auto()
        SECOND = auto()

    return [one.value for one in Lower]


@case("member and nonmember", None)
def nonmembers(_):
    class Mixed(Enum):
        A = 1
        helper = enum.nonmember(5)

        @enum.member
        def act():
            return "acted"

    return Mixed.helper, [one.name for one in Mixed], Mixed.act.value()


@made("an enum of a function's own scope", 2)
def local_enum():
    class Local(Enum):
        ONE = 1
        TWO = 2

    def call(n):
        return Local(n).name, Local.ONE is Local(1)

    return call


@case("an enum with members cannot be extended", raises=TypeError)
def final():
    class More(Color):
        PINK = 4

    return More


@case("flags with a boundary", raises=ValueError)
def boundary():
    class Strict(Flag, boundary=enum.STRICT):
        A = 1

    return Strict(6)


@case("match on members of two enums")
def matched():
    found = []
    for member in (Color.RED, Level.HIGH, Mode.READ):
        match member:
            case Color.RED:
                found.append("red")
            case Level.HIGH:
                found.append("high")
            case Mode.READ:
                found.append("read")
    return found
