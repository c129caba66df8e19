"""Operators, and the methods that classes of the script give them."""

import math
import operator

from tests.conformance.case import case


class Vector:
    def __init__(self, *parts):
        self.parts = parts

    def __add__(self, other):
        return Vector(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def __mul__(self, factor):
        return Vector(*(a * factor for a in self.parts)) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def __matmul__(self, other):
        return sum(a * b for a, b in zip(self.parts, other.parts, strict=True))

    def __neg__(self):
        return -1 * self

    def __abs__(self):
        return math.hypot(*self.parts)

    def __bool__(self):
        return any(self.parts)

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]

    def __repr__(self):
        return f"Vector{self.parts}"


@case("binary operators of a class")
def binary():
    return repr(Vector(1, 2) + Vector(3, 4)), repr(Vector(1, 2) * 3), Vector(1, 2) @ Vector(3, 4)


@case("reflected operators of a class")
def reflected():
    return repr(2 * Vector(1, 2)), repr(-Vector(1, -1))


@case("operators that give NotImplemented", raises=TypeError)
def not_implemented():
    return Vector(1) * "x"


@case("abs, bool and len of a class")
def unary():
    return abs(Vector(3, 4)), bool(Vector(0, 0)), len(Vector(1, 2, 3))


class Meters:
    def __init__(self, n):
        self.n = n

    def __iadd__(self, other):
        self.n += other
        return self

    def __and__(self, other):
        return "and", self.n, other

    def __ror__(self, other):
        return "ror", other, self.n

    def __invert__(self):
        return ~self.n

    def __pow__(self, exponent, modulo=None):
        return pow(self.n, exponent, modulo)

    def __divmod__(self, other):
        return divmod(self.n, other)

    def __lshift__(self, n):
        return self.n << n


@case("augmented assignment of a class")
def augmented():
    a = b = Meters(1)
    a += 2
    return a is b, b.n


@case("bit operators of a class")
def bits():
    return Meters(6) & 3, 1 | Meters(6), ~Meters(6), Meters(1) << 4


@case("pow with a modulus and divmod of a class")
def power():
    return pow(Meters(7), 3, 10), divmod(Meters(17), 5), Meters(2) ** 5


class Word(str):
    def __eq__(self, other):
        return self.lower() == other.lower()

    def __hash__(self):
        return hash(self.lower())


@case("__eq__ and __hash__ of a class that is a str")
def equality():
    return Word("A") == Word("a"), len({Word("A"), Word("a")}), {Word("Key"): 1}[Word("kEY")]


class Strict:
    def __eq__(self, other):
        return isinstance(other, Strict)


@case("a class with __eq__ and no __hash__", raises=TypeError, wording="newer versions name where it was needed")
def unhashable():
    return {Strict()}


class Money:
    def __init__(self, cents):
        self.cents = cents

    def __lt__(self, other):
        return self.cents < other.cents


@case("sorting by __lt__ alone")
def sorting():
    return [one.cents for one in sorted([Money(3), Money(1), Money(2)])], min(Money(2), Money(1)).cents


@case("comparison that nobody defined", raises=TypeError)
def no_comparison():
    return Money(1) >= 1


class Grid:
    def __init__(self):
        self.cells = {}

    def __setitem__(self, key, value):
        self.cells[key] = value

    def __getitem__(self, key):
        return key if isinstance(key, slice) else self.cells.get(key, key)

    def __delitem__(self, key):
        del self.cells[key]

    def __contains__(self, key):
        return key in self.cells


@case("subscripts of a class: tuples, slices, ellipsis")
def subscripts():
    grid = Grid()
    grid[1, 2] = "a"
    grid[0] = "b"
    del grid[0]
    cut = grid[1:2:3]
    return grid[1, 2], (1, 2) in grid, 0 in grid, grid[...] is ..., (cut.start, cut.stop, cut.step)


class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, *args, **kwargs):
        return self.n + sum(args) + len(kwargs)


@case("an instance that is called")
def called():
    return Adder(1)(2, 3, a=4), callable(Adder(0))


class Number:
    def __init__(self, n):
        self.n = n

    def __int__(self):
        return int(self.n)

    def __float__(self):
        return float(self.n)

    def __index__(self):
        return int(self.n)

    def __complex__(self):
        return complex(self.n, 1)

    def __round__(self, digits=None):
        return round(self.n, digits)

    def __trunc__(self):
        return int(self.n)

    def __ceil__(self):
        return -int(-self.n // 1)


@case("conversions of a class to numbers")
def conversions():
    one = Number(2.5)
    return int(one), float(one), complex(one), round(one), round(one, 1), math.ceil(one), math.trunc(one)


@case("an instance used as an index")
def as_index():
    return "abcdef"[Number(3)], hex(Number(255)), list(range(Number(2)))


class Text:
    def __str__(self):
        return "str"

    def __repr__(self):
        return "repr"

    def __format__(self, spec):
        return f"format({spec})"

    def __bytes__(self):
        return b"bytes"


@case("str, repr, format and bytes of a class")
def texts():
    return str(Text()), repr(Text()), f"{Text():>5} {Text()!r} {Text()!s}", bytes(Text()), [Text()].__repr__()


@case("integer division and remainder of negative numbers", -7)
def negative(n):
    return n // 2, n % 3, divmod(n, -2), n >> 1


@case("powers of negative and of large numbers")
def powers():
    return (-2) ** 3, -(2**2), 2**-1, (-8) ** (1 / 3), 7**77


@case("floats that are not what they look like")
def floats():
    return 0.1 + 0.2, 1e16 + 1, round(2.5), round(-1.5), 0.1 + 0.2 == 0.3, float("nan") != float("nan")


@case("arithmetic of mixed kinds")
def mixed():
    return 1 + 2.0, True + True, 1 + 2j, 3 * 1.5, 7 // 2.0


@case("identity and equality of small values")
def identity():
    a, b = [1], [1]
    return a == b, a is b, None is None, 1 == 1.0 == True


@case("membership in every kind of container")
def membership():
    return 2 in [1, 2], "b" in "abc", "k" in {"k": 1}, 3 in range(5), b"b" in b"abc", 5 not in {1, 2}


@case("functions of the operator module", {"a": [10, 20]})
def operator_module(value):
    get, call = operator.itemgetter("a"), operator.methodcaller("index", 20)
    return get(value), call(get(value)), operator.attrgetter("real")(3 + 4j), operator.concat([1], [2])


@case("matrix multiplication that nobody defined", raises=TypeError)
def no_matmul():
    return [1] @ [2]


@case("bit arithmetic of negative and of large ints", 1 << 70)
def bitwise(n):
    return n | 1, n ^ -1, ~n, -1 >> 3, n.bit_length(), (n - 1).bit_count()


@case("comparison of sequences and of sets")
def sequences():
    return [1, 2] < [1, 3], (1,) < (1, 0), "Z" < "a", {1} < {1, 2}, {1, 2} >= {2}


@case("set operators and their methods")
def sets():
    a, b = {1, 2, 3}, {3, 4}
    return a | b, a & b, a - b, a ^ b, a.isdisjoint({9}), a.issuperset([1])


@case("dict union and its augmented form")
def dict_union():
    a = {"x": 1, "y": 2}
    b = a | {"y": 3, "z": 4}
    a |= [("w", 0)]
    return a, b
