"""Strings: literals, formatting, methods, encodings, regular expressions."""

import re
import string
import textwrap
import unicodedata
from datetime import date

from tests.conformance.case import case


class Temperature:
    def __init__(self, degrees):
        self.degrees = degrees

    def __format__(self, spec):
        return f"{self.degrees * 9 / 5 + 32:.1f}F" if spec == "f" else f"{self.degrees:.1f}C"


@case("replacement fields of f-strings", "Ada", 36)
def replacement(name, age):
    return f"{name} is {age}, in ten years {age + 10}"


@case("conversions in f-strings", "ü\n")
def conversions(text):
    return f"{text!r} {text!a} {text!s:>4}"


@case("format specifications of numbers", 1234567.891)
def numbers(x):
    return f"{x:,.2f}|{x:12.1f}|{x:<12.0f}|{x:e}|{x:+g}|{int(x):_d}|{255:#x}|{5:08b}|{0.256:.1%}"


@case("alignment and fill", "ab")
def alignment(text):
    return f"{text:>5}|{text:<5}|{text:^5}|{text:*^7}|{text:.1}"


@case("nested fields of a format specification", 3.14159, 8, 3)
def nested_fields(x, width, digits):
    return f"{x:{width}.{digits}f}"


@case("f-strings that name what they show", 3)
def self_documenting(n):
    return f"{n=} {n + 1 = } {n!r:>3}"


@case("braces and quotes inside f-strings", {"k": "v"})
def braces(table):
    return f"{{}} {table['k']} {'nested'} {{{table['k']}}}"


@case("f-strings over several lines", 1)
def long_f_string(n):
    return (
        f"first {n}\n"
        "second {n}\n"
        f"""third {n + 1}"""
    )


@case("lambdas and calls inside f-strings", [3, 1, 2])
def calls_inside(values):
    return f"{sorted(values)} {(lambda x: x * 2)(21)} {max(values):02}"


@case("__format__ of a class")
def own_format():
    return f"{Temperature(20)} {Temperature(20):f} {format(Temperature(0), 'f')}"


@case("dates in f-strings", date(2026, 11, 22))
def dates(day):
    return f"{day:%Y-%m-%d %j}"


@case("str.format by position, name, index and attribute")
def str_format():
    return "{1} {0} {name} {row[0]} {z.real}".format("a", "b", name="n", row=[7], z=2j)


@case("percent formatting", "x", 7)
def percent(text, n):
    return "%s %5d %-5d| %05.2f %x %%" % (text, n, n, n / 3, n * 100), "%(a)s" % {"a": n}


@case("too few arguments of percent formatting", raises=TypeError)
def percent_missing():
    return "%s %s" % ("one",)


@case("string.Template", "Ada")
def template(name):
    return string.Template("Hi $name, ${name}s $$5 $other").safe_substitute(name=name)


@case("escapes in string literals")
def escapes():
    return "\t\x41\u00e9\U0001f600\N{GREEK SMALL LETTER PI}\101", b"\x00\xff\n"


@case("raw strings")
def raw():
    return r"\n\d", rb"\x00", len(r"\\")


@case("implicit concatenation of literals")
def implicit():
    return "a" "b" r"\c" f"{1}"  # fmt: skip


@case("text beyond the basic plane", "naïve 🚗 日本")
def wide(text):
    return len(text), text[6], text.encode(), text[::-1]


@case("lone surrogates", "a\ud800b")
def surrogates(text):
    return text, len(text), text.encode("utf-16-le", "surrogatepass")


@case("encodings and their error handlers", "Grüße €")
def encodings(text):
    return (
        text.encode("latin-1", "replace"),
        text.encode("ascii", "xmlcharrefreplace"),
        text.encode("utf-16"),
        b"\xff".decode("utf-8", "backslashreplace"),
        text.encode("cp1252").decode("cp1252") == text,
    )


@case("bytes that are no UTF-8", raises=UnicodeDecodeError)
def undecodable():
    return b"ab\xff".decode()


@case("normal forms of Unicode", "é")
def normal_forms(text):
    apart = unicodedata.normalize("NFD", text)
    return apart, len(apart), unicodedata.normalize("NFC", apart) == text, unicodedata.name(text)


@case("splitting in every way", " a,b,,c ")
def splitting(text):
    return text.split(","), text.split(), text.rsplit(",", 1), text.partition(","), "a\nb\x0bc\r\nd".splitlines(True)


@case("stripping and removing", "--key--")
def stripping(text):
    return text.strip("-"), text.removeprefix("--"), text.removesuffix("-"), text.lstrip("k-"), "xyxz".rstrip("zx")


@case("searching and counting", "banana")
def searching(text):
    return text.find("an"), text.rfind("an"), text.count("an"), text.index("na"), text.startswith(("b", "x"), 0)


@case("a part that is not there", "abc", raises=ValueError)
def not_there(text):
    return text.index("z")


@case("letter cases of several scripts", "ǆ Straße İ")
def letter_cases(text):
    return text.upper(), text.lower(), text.title(), text.casefold(), text.swapcase(), "they're".capitalize()


@case("translation tables", "hello")
def translation(text):
    return text.translate(str.maketrans("lo", "01", "h")), text.translate({101: "EE"})


@case("kinds of characters", ["1", "½", "٣", "a", " ", "_x", "Ⅷ"])
def kinds(texts):
    return [(t.isdigit(), t.isdecimal(), t.isnumeric(), t.isalpha(), t.isidentifier(), t.isspace()) for t in texts]


@case("slices with every sign", "abcdefg")
def slices(text):
    return text[1:-1], text[::-2], text[-3:], text[5:1:-1], text[10:], text[:0]


@case("zfill, expandtabs, center and join")
def filling():
    return "-7".zfill(4), "a\tb".expandtabs(4), "x".center(4, "."), "-".join(["a", "b"])


@case("regular expressions with named groups", "2026-11-22, 2027-01-02")
def named_groups(text):
    pattern = re.compile(r"(?P<year>\d{4})-(?P<month>\d\d)")
    return [match.groupdict() for match in pattern.finditer(text)], pattern.sub(r"\g<month>/\g<year>", text)


@case("regular expressions with lookaround, flags and a function", "one TWO three")
def expressions(text):
    return (
        re.findall(r"(?<=o)\w(?=\w)", text),
        re.sub(r"\b\w", lambda match: match[0].swapcase(), text),
        re.split(r"\s+", text, maxsplit=1),
        re.fullmatch(r"(?ix) ONE \s .* ", text) is not None,
    )


@case("textwrap on indented text")
def wrapped():
    text = """
        first line
          indented
    """
    return textwrap.dedent(text), textwrap.fill("a b c d e f", 5), textwrap.shorten("hello wide world", 12)


@case("byte strings and their methods", b"ab,cd")
def byte_strings(data):
    return data.split(b","), data[0], data.hex("-"), bytes.fromhex("00 ff"), data.replace(b"a", b"xx"), data + b"!"


@case("a bytearray that is changed in place")
def byte_arrays():
    data = bytearray(b"hello")
    data[0:1] = b"J"
    data.append(33)
    del data[1]
    return bytes(data), data.find(b"l")


@case("a memoryview over an array of numbers")
def memory_views():
    view = memoryview(bytearray(range(12))).cast("B", (3, 4))
    return view[1, 2], view.tolist(), view.shape, bytes(view)


@case("comparison and order of strings", ["b", "A", "a", "Z", "ä"])
def order(words):
    return sorted(words), sorted(words, key=str.casefold), max(words)
