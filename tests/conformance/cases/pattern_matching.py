"""The match statement."""

from dataclasses import dataclass
from enum import Enum

from tests.conformance.case import case


@dataclass
class Point:
    x: int
    y: int


class Color(Enum):
    RED = 1
    BLUE = 2


class Positional:
    __match_args__ = ("name", "age")

    def __init__(self, name, age):
        self.name = name
        self.age = age


@case("literal patterns", [404, "x", None, True, 1.5, b"z"])
def literals(values):
    def name(value):
        match value:
            case 404:
                return "number"
            case "x":
                return "text"
            case None:
                return "none"
            case True:
                return "true"
            case b"z":
                return "bytes"
            case _:
                return "other"

    return [name(value) for value in values]


@case("sequence patterns", [[], [1], [1, 2], [1, 2, 3]])
def sequences(values):
    def name(value):
        match value:
            case []:
                return "empty"
            case [one]:
                return one
            case [first, *_, last]:
                return first, last

    return [name(value) for value in values]


@case("strings are no sequences of a pattern", "ab")
def strings(value):
    match value:
        case [a, b]:
            return "sequence", a, b
        case str(text):
            return "text", text


@case("mapping patterns with the rest", {"kind": "move", "x": 1, "y": 2})
def mappings(value):
    match value:
        case {"kind": "stop"}:
            return "stop"
        case {"kind": "move", "x": x, **rest}:
            return x, rest


@case("class patterns with keywords", 5)
def keywords(n):
    match Point(n, 0):
        case Point(x=0, y=0):
            return "origin"
        case Point(x=x, y=0):
            return f"on the axis at {x}"


@case("class patterns by position in a dataclass", 3)
def positions(n):
    match Point(n, n):
        case Point(x, y) if x == y:
            return "diagonal", x


@case("class patterns by __match_args__")
def match_args():
    match Positional("Ada", 36):
        case Positional("Ada", age):
            return age


@case("class patterns of builtins", [1, "a", 2.5, [3], {"k": 4}])
def builtin_classes(values):
    found = []
    for value in values:
        match value:
            case int(n) | float(n):
                found.append(("number", n))
            case str():
                found.append("text")
            case list([only]):
                found.append(only)
            case dict():
                found.append("dict")
    return found


@case("value patterns of an enum", 2)
def enum_values(number):
    match Color(number):
        case Color.RED:
            return "red"
        case Color.BLUE:
            return "blue"


@case("alternatives that bind the same name", ["go", "north"])
def alternatives(words):
    match words:
        case ["go", ("north" | "south") as direction] | [direction]:
            return direction


@case("guards that look at what was bound", [3, 4, 12])
def guards(values):
    match values:
        case [a, b, c] if a * a + b * b == c * c:
            return "right"
        case [a, b, c] if c == a * b:
            return "product", a, b


@case("nothing matches", 99)
def nothing(value):
    match value:
        case 1:
            return "one"
    return "none"


@case("nested patterns", {"user": {"name": "Ada", "langs": ["py", "c", "ml"]}})
def nested(value):
    match value:
        case {"user": {"name": str(name), "langs": [first, *others]}}:
            return name, first, others


@case("names bound by a pattern that failed later", [1, 2])
def bound_by_failure(pair):
    a = "before"
    match pair:
        case [a, 3]:
            return "matched"
        case [_, b]:
            return a, b


@case("a small interpreter by match", ("add", ("mul", 2, 3), ("neg", 4)))
def interpreter(tree):
    match tree:
        case ("add", a, b):
            return interpreter(a) + interpreter(b)
        case ("mul", a, b):
            return interpreter(a) * interpreter(b)
        case ("neg", a):
            return -interpreter(a)
        case int(n):
            return n


@case("a class pattern of too many positions", raises=TypeError)
def too_many():
    match Point(1, 2):
        case Point(a, b, c):
            return a, b, c


@case("match and case as ordinary names")
def soft_keywords():
    match = {"case": 1}
    case = match["case"]
    return match, case


@case("a negative number and a complex one in patterns", [-1, 3 + 4j])
def signed(values):
    found = []
    for value in values:
        match value:
            case -1:
                found.append("minus one")
            case 3 + 4j:
                found.append("complex")
    return found


@case("a wildcard inside a sequence", (1, "x", 3))
def wildcard(value):
    match value:
        case (a, _, b):
            return a + b
