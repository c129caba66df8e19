"""Builtin functions and types, by family."""

import math

from tests.conformance.case import case


@case("int() of texts in several bases")
def to_int():
    return int(" 12 "), int("ff", 16), int("0b101", 0), int("1_000"), int(-3.9), int(b"7")


@case("float() of texts")
def to_float():
    return float("1e3"), float(" -inf"), float("1_0.5"), (0.5).hex(), float.fromhex("0x1p-2"), (2.5).as_integer_ratio()


@case("complex numbers", 3 + 4j)
def complex_numbers(z):
    return abs(z), z.conjugate(), z.real, complex("1-2j"), z**2, z == 3 + 4j


@case("bool() of every kind of empty value")
def truth():
    return [bool(value) for value in (0, 0.0, "", b"", [], {}, set(), None, range(0), 0j, "0", [0], object)]


@case("bin, hex, oct, chr, ord and ascii")
def bases():
    return bin(-5), hex(255), oct(8), chr(8364), ord("€"), ascii("é")


@case("round and divmod")
def rounding():
    return round(2.675, 2), round(1234, -2), round(-0.5), divmod(-7, 3), divmod(7.5, 2)


@case("int to bytes and back", 70_000)
def int_bytes(n):
    return n.to_bytes(3, "little"), int.from_bytes(b"\xff\xfe", "big", signed=True), n.bit_length()


@case("an int of too many digits as text", raises=ValueError, wording="newer versions say which limit")
def too_many_digits():
    return str(10**5000)


@case("the math module", 10)
def mathematics(n):
    return (
        math.factorial(n),
        math.comb(n, 3),
        math.isqrt(n),
        math.gcd(n, 4),
        math.lcm(4, 6),
        math.prod([1, 2, 3]),
        math.dist([0, 0], [3, 4]),
    )


@case("the limits of math functions", raises=ValueError, wording="CPython 3.14 words it differently")
def domain():
    return math.sqrt(-1)


@case("floats compared with a tolerance")
def close():
    return math.isclose(0.1 + 0.2, 0.3), math.fsum([0.1] * 10), math.nextafter(1, 2) > 1, math.copysign(1, -0.0)


@case("slice objects", "abcdefgh")
def slices(text):
    cut = slice(1, None, 3)
    return text[cut], cut.indices(5), cut == slice(1, None, 3)


@case("object: a plain one is only itself")
def objects():
    one = object()
    return one == one, one == object(), isinstance(one, object)


@case("type of types and isinstance with tuples")
def types_of_types():
    return (
        type(int) is type,
        isinstance(True, int),
        isinstance(1, (str, int)),
        issubclass(bool, int),
        type(None).__name__,
    )


@case("frozenset as a key and bytes as a key")
def odd_keys():
    return {frozenset("ab"): 1, b"k": 2, (1, (2,)): 3, 1.5: 4}[frozenset("ba")]


@case("equal keys of different types are one key")
def equal_keys():
    return {1: "int", True: "bool", 1.0: "float"}, {0, False, 0.0}


@case("an unhashable key", raises=TypeError, wording="newer versions say it is about a key")
def unhashable():
    return {[]: 1}


@case("print into a text", "x")
def prints(text):
    import io

    out = io.StringIO()
    print(text, 1, None, sep=", ", end=";", file=out, flush=True)
    return out.getvalue()


@case("sorted, reversed and enumerate give iterators or lists")
def kinds_of_results():
    return (
        type(sorted("b")).__name__,
        type(reversed([])).__name__,
        type(enumerate("")).__name__,
        type({}.keys()).__name__,
    )


@case("hash of numbers that are equal")
def hashes():
    return hash(1) == hash(1.0) == hash(True), hash(-1), hash(0.0)


@case("globals of builtins: __debug__ and __import__")
def builtin_names():
    return __debug__, __import__("math").pi > 3, __builtins__ is not None


@case("str of every builtin constant")
def constants():
    return str(None), str(...), str(NotImplemented), repr(True), str(int), repr(range(3))


@case("memoryview and bytearray share their bytes")
def shared_bytes():
    data = bytearray(b"abc")
    view = memoryview(data)
    view[0] = 122
    return bytes(data), view.readonly, bytes(view[1:])


@case("a sequence repeated and concatenated", [1])
def repeated(values):
    return values * 3, (0,) * 2 + (1,), "ab" * 2, [[]] * 2, values * -1


@case("open of a scratch file, written and read")
def files():
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.txt")
        with open(path, "w", encoding="utf-8") as stream:
            written = stream.write("é\nb\n")
        with open(path, "rb") as stream:
            stream.seek(1)
            raw = stream.read(2)
        with open(path, encoding="utf-8") as stream:
            return written, raw, list(stream), os.listdir(folder)
