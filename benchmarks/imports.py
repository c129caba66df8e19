"""What a bundle of many modules adds to the first call of a function that imports them all."""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.functions import noop
from benchmarks.harness import Figure, Settings, Sync, figure, fleet_of, timed

MODULES = 50
ADDED_MS_MAX = 60.0
KNOWN_AFTER = 3
"""A slot and its spare take turns: each has seen the function by then."""
MODULE = '''"""Module {index} of a package."""

import json

LIMIT = {index}


class Item:
    """What this module is about."""

    def __init__(self, name, count={index}):
        self.name = name
        self.count = count

    def scaled(self, factor):
        """A copy with another count."""
        if factor < 0:
            raise ValueError(f"factor {{factor}} is negative")
        return Item(self.name, self.count * factor)


class Store:
    """Items by name."""

    def __init__(self):
        self._items = {{}}

    def put(self, item):
        """Keep an item."""
        self._items[item.name] = item
        return item

    def total(self):
        """Sum of all counts."""
        return sum(item.count for item in self._items.values())

    def as_json(self):
        """For a file."""
        rows = [{{"name": item.name, "count": item.count}} for item in self._items.values()]
        return json.dumps(rows, sort_keys=True)


def helper_{index}(values):
    """What the others call."""
    found = []
    for value in values:
        if value % 2:
            found.append(value + LIMIT)
        else:
            found.append(value * LIMIT)
    return found


def total_{index}(rows):
    """Sum of a column."""
    return sum(row["count"] for row in rows if row["count"] < LIMIT)
'''
MAIN = """import time

import fleet

began = time.perf_counter()
{imports}
took_s = time.perf_counter() - began


@fleet.function(isolation="call")
def fresh(number={number}):
    return number, took_s
"""


@contextmanager
def packages(count: int, modules: int) -> Iterator[list[Any]]:
    """Functions of ``count`` packages that were written just now, each importing ``modules`` modules of its own."""
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
        sys.path.insert(0, folder)
        try:
            for number in range(count):
                package = Path(folder) / f"bench_{modules}_{number}"
                package.mkdir()
                for index in range(modules):
                    (package / f"m{index}.py").write_text(MODULE.format(index=index))
                imports = "\n".join(f"from .m{index} import helper_{index}" for index in range(modules))
                (package / "__init__.py").write_text("")
                (package / "main.py").write_text(MAIN.format(imports=imports, number=number))
            importlib.invalidate_caches()
            yield [importlib.import_module(f"bench_{modules}_{number}.main").fresh for number in range(count)]
        finally:
            sys.path.remove(folder)


class Trial:
    """A package's first call, and one in a sandbox of a slot that knows it."""

    def __init__(self, function: Any, number: int) -> None:
        began = time.perf_counter()
        answered, self.first_s = function.remote()
        self.whole_s = time.perf_counter() - began
        for _ in range(KNOWN_AFTER):
            again, self.again_s = function.remote()
            assert answered == again == number, (answered, again, number)


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """In turns a package with 50 modules and one with a single one.

    The time of the imports is taken by the imported module itself, inside the sandbox.
    """
    count = 10 if settings.quick else 60
    first: list[float] = []
    again: list[float] = []
    whole: list[float] = []
    with fleet_of(cars=1, sync=sync), packages(count, MODULES) as many, packages(count, 1) as one:
        timed(noop.remote, 20)
        for number, functions in enumerate(zip(many, one, strict=True)):
            large, small = (Trial(function, number) for function in functions)
            first.append(1000 * (large.first_s - small.first_s))
            again.append(1000 * (large.again_s - small.again_s))
            whole.append(1000 * (large.whole_s - small.whole_s))
    return [
        figure(
            f"importing {MODULES} modules of a bundle in a sandbox, added", first, "ms", target=ADDED_MS_MAX, sync=sync,
            note="the first time: 50 modules of 60 lines are compiled",
        ),
        figure(f"importing {MODULES} modules in a slot's later sandboxes, added", again, "ms", sync=sync),
        figure(
            f"first call of a function with {MODULES} modules, added", whole, "ms", sync=sync,
            note="that, and the bundle found on the client, uploaded, fetched by the car",
        ),
    ]  # fmt: skip
