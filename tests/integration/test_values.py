"""Results of every kind from real sandboxes, as real classes of the caller."""

from __future__ import annotations

import enum
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

import fleet
from tests.integration import value_functions as fn
from tests.unit.codec_corpus import same

pytestmark = pytest.mark.usefixtures("shared_fleet")


def test_instances_come_back_as_the_caller_s_own() -> None:
    expected = fn.items.local(20)
    fn.built.clear()
    assert fn.items.remote(20) == expected
    assert list(fn.items.map([1, 2])) == [expected[:1], expected[:2]]
    assert fn.items.spawn(1).result() == expected[:1]
    assert list(fn.items.spawn_map([1, 2]).results()) == [expected[:1], expected[:2]]
    assert list(fn.stream.remote_gen(2)) == list(fn.stream.local(2)) and fn.built[2:] == []
    assert fn.unsaid.remote(1) == {"i0": fn.Size.LARGE}


def test_every_kind_comes_back() -> None:
    assert same(fn.kinds.remote(), fn.kinds.local())


def test_a_class_that_nobody_here_knows_is_named_with_its_path() -> None:
    with pytest.raises(fleet.ResultNotPortable) as caught:
        fn.local_class.remote()
    assert caught.value.message.startswith(
        "result['a'][0] is of class tests.integration.value_functions.local_class.<locals>"
    )
    assert "return a dict" in caught.value.hint


def test_classes_that_travelled_by_value_come_back_as_themselves() -> None:
    @dataclass(frozen=True)
    class Local:
        x: int

    class Mood(enum.Enum):
        GOOD = 1

    @fleet.function
    def make(count: int):  # type: ignore[no-untyped-def]
        return {Local(n): Mood.GOOD for n in range(count)}

    assert make.remote(2) == {Local(0): Mood.GOOD, Local(1): Mood.GOOD}

    @dataclass
    class Late:
        y: list[int]

    @fleet.function
    def same_again(value: object) -> object:
        return [value]

    assert same_again.remote(1) == [1]
    assert same_again.remote(Late([2])) == [Late([2])]


def test_exceptions_bring_what_they_carry() -> None:
    with pytest.raises(fn.OutOfStock, match="no pear left") as caught:
        fn.sell.remote("pear")
    assert caught.value.item == fn.Item("pear", fn.Price(Decimal(1)))
    cause = caught.value.__cause__
    assert isinstance(cause, FileNotFoundError) and cause.filename == "/shop/stock.txt"
    assert "the shop is closed" in cause.__notes__
    with pytest.raises(ExceptionGroup) as group:
        fn.several.remote()
    assert group.group_contains(fn.OutOfStock, match="no a left") and group.group_contains(ValueError, match="b")


SCRIPT = """
from __future__ import annotations
import enum
from dataclasses import dataclass
import fleet

class Level(enum.IntEnum):
    HIGH = 3

@dataclass(slots=True)
class Reading:
    at: float
    level: Level

@fleet.function
def read(count):
    return [Reading(n / 2, Level.HIGH) for n in range(count)]

if __name__ == "__main__":
    found = read.remote(20)
    assert found == read.local(20) and type(found[0]) is Reading and found[0].level is Level.HIGH
    print("fine", found[1])
"""


def test_classes_of_a_script(tmp_path: Path) -> None:
    path = tmp_path / "readings.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "fine Reading(at=0.5, level=<Level.HIGH: 3>)\n", done.stderr
    fleet_command = [str(Path(sys.executable).with_name("fleet"))]
    ran = subprocess.run([*fleet_command, "run", f"{path}::read", "1"], capture_output=True, text=True, timeout=120)
    assert ran.stdout == "[Reading(at=0.0, level=<Level.HIGH: 3>)]\n", ran.stderr
    subprocess.run([*fleet_command, "deploy", str(path)], check=True, capture_output=True, timeout=120)
    called = subprocess.run([*fleet_command, "call", "readings.read", "1"], capture_output=True, text=True, timeout=120)
    assert called.stdout == "[Reading(at=0.0, level=Level.HIGH)]\n", called.stderr
    called = subprocess.run(
        [*fleet_command, "call", "readings.read", "1", "--json"], capture_output=True, text=True, timeout=120
    )
    assert called.stdout.split() == ["[", "{", '"at":', "0.0,", '"level":', '"Level.HIGH"', "}", "]"], called.stderr
