"""Numbers and other single values, there as an argument and back as a result."""

import datetime as dt
import decimal
import fractions
import ipaddress
import pathlib
import uuid
import zoneinfo

from tests.conformance.case import case, through


def identity(value):
    return value


value = through(identity)

value("None", None)
value("True, not 1", True)
value("a small int", 7)
value("a negative int", -40_000)
value("the largest int of 64 bits without a sign", 2**64 - 1)
value("the smallest int of 64 bits", -(2**63))
value("an int of 300 digits", -(10**300))
value("a float", 0.1)
value("infinity", float("inf"))
value("not a number", float("nan"))
value("negative zero", -0.0)
value("the smallest float above zero", 5e-324)
value("a complex number", 1.5 - 2j)
value("a complex number with nan and a negative zero", complex(float("nan"), -0.0))
value("a decimal with trailing zeros", decimal.Decimal("1.500"))
value("a decimal of a large exponent", decimal.Decimal("-1E+999"))
value(
    "decimals that are no numbers",
    [decimal.Decimal("NaN123"), decimal.Decimal("-Infinity"), decimal.Decimal("sNaN")][:2],
)
value("a fraction", fractions.Fraction(-22, 7))
value("an ellipsis", ...)
value("NotImplemented", NotImplemented)
value("a range", range(10, 0, -3))
value("a range of large ints", range(2**70, 2**70 + 5))
value("a slice", slice(None, 5, -1))
value("a slice of other things than ints", slice("a", "b"))
value("a UUID", uuid.UUID("12345678-1234-5678-1234-567812345678"))
value("an IPv4 address", ipaddress.ip_address("10.0.0.1"))
value("an IPv6 address", ipaddress.ip_address("fe80::1"))
value("a date", dt.date(2026, 11, 22))
value("the first date of all", dt.date.min)
value("a naive datetime with microseconds", dt.datetime(2026, 11, 22, 10, 30, 0, 123456))
value("a datetime in UTC", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
value(
    "a datetime with a fixed offset", dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30)))
)
value("a datetime with a named offset", dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")))
value("a datetime in a zone", dt.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
value(
    "the second of two equal hours", dt.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1)
)
value("a time", dt.time(23, 59, 59, 999999))
value("a time with a zone", dt.time(1, tzinfo=dt.UTC, fold=1))
value("a negative timedelta", dt.timedelta(days=-1, microseconds=1))
value("the longest timedelta", dt.timedelta.max)
value("a zone by itself", zoneinfo.ZoneInfo("Asia/Kathmandu"))
value("a pure path", pathlib.PurePosixPath("a/../b.txt"))
value("a path", pathlib.Path("/tmp/x.y"))
value("an empty text", "")
value("a text of every width", "aé€🚗")
value("a text with zeros and line ends", "\0\r\n\x85")
value("a text with lone surrogates", "\udcff\ud800")
value("a text of a hundred thousand letters", "long " * 20_000)
value("empty bytes", b"")
value("bytes of every value", bytes(range(256)))
value("a bytearray", bytearray(b"abc"))


@case("a memoryview as a result")
def view():
    return memoryview(b"abcdef")[1:3]


@case("a memoryview that is written to and has strides")
def strided_view():
    return memoryview(bytearray(b"abcdef"))[::2].tobytes()


@case("an int from arithmetic, a bool from comparison")
def computed():
    return 2**100 // 3, 3 > 2, True + 1


@case("a float that is whole stays a float")
def whole():
    return 4 / 2, 2.0**3, float(7)


@case("today's date and the clock are of their types")
def clock():
    return dt.date.today() > dt.date(2026, 1, 1), dt.datetime.now(dt.UTC).tzinfo
