"""Functions whose results are made of classes and kinds that no JSON knows."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import pathlib
import uuid
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import fleet

built: list[str] = []


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Marks(enum.Flag):
    NEW = 1
    SALE = 2


class Price(NamedTuple):
    amount: decimal.Decimal
    currency: str = "EUR"


@dataclass(frozen=True)
class Item:
    name: str
    price: Price
    size: Size = Size.SMALL
    marks: Marks = Marks.NEW | Marks.SALE
    parts: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        built.append(self.name)


class OutOfStock(Exception):
    def __init__(self, item: Item) -> None:
        super().__init__(f"no {item.name} left")
        self.item = item


@fleet.function
def items(count: int) -> list[Item]:
    one = Item("part", Price(decimal.Decimal("0.10")))
    return [Item(f"i{n}", Price(decimal.Decimal(n)), Size.LARGE, parts=[one]) for n in range(count)]


@fleet.function
def unsaid(count: int) -> Any:
    return {Item(f"i{n}", Price(decimal.Decimal(n))).name: Size.LARGE for n in range(count)}


@fleet.function
def stream(count: int) -> Iterator[Item]:
    for number in range(count):
        yield Item(str(number), Price(decimal.Decimal(1)))


@fleet.function
def local_class() -> Any:
    @dataclass
    class Hidden:
        inner: list[Any]

    return {"a": [Hidden([1])]}


@fleet.function
def kinds() -> list[Any]:
    return [
        1 - 2j, 2**100, bytearray(b"x"), collections.deque([1], 3), collections.Counter("aab"), range(3), slice(1, 2),
        collections.OrderedDict(b=1, a=2), collections.defaultdict(list, {1: [2]}), decimal.Decimal("1.10"), ...,
        fractions.Fraction(1, 3), uuid.UUID(int=3), pathlib.Path("/a"), dt.timedelta(1, 2),
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Oslo"), fold=1), float("inf"), "\ud800",
        {(1, None): {frozenset({2})}}, memoryview(b"abc"),
    ]  # fmt: skip


@fleet.function
def sell(name: str) -> None:
    try:
        open("/shop/stock.txt")  # noqa: SIM115
    except OSError as error:
        error.add_note("the shop is closed")
        raise OutOfStock(Item(name, Price(decimal.Decimal(1)))) from error


@fleet.function
def several() -> None:
    raise ExceptionGroup("all", [OutOfStock(Item("a", Price(decimal.Decimal(1)))), ValueError("b")])
