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
MODULE = '''"""Module {index} of a package."""

import dataclasses
import json

LIMIT = {index}


@dataclasses.dataclass
class Item:
    """What this module is about."""

    name: str
    count: int = {index}

    def scaled(self, factor):
        """A copy with another count."""
        if factor < 0:
            raise ValueError(f"factor {{factor}} is negative")
        return dataclasses.replace(self, count=self.count * factor)


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
        rows = [dataclasses.asdict(item) for item in self._items.values()]
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
'''
MAIN = """import fleet
{imports}

@fleet.function
def fresh(value):
    return value + {number}
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


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """First calls in turns: of a package with 50 modules, of one with a single one."""
    count = 10 if settings.quick else 60
    added, whole = [], []
    with fleet_of(cars=1, sync=sync), packages(count, MODULES) as many, packages(count, 1) as one:
        timed(noop.remote, 20)
        for number, (large, small) in enumerate(zip(many, one, strict=True)):
            took_s = []
            for function in (large, small):
                began = time.perf_counter()
                assert function.remote(1) == number + 1
                took_s.append(time.perf_counter() - began)
            added.append(1000 * (took_s[0] - took_s[1]))
            whole.append(1000 * took_s[0])
    return [
        figure(
            f"{MODULES} modules in a bundle: added to the first call", added, "ms", target=ADDED_MS_MAX, sync=sync,
            note="bundle found, uploaded, fetched; 50 modules of 60 lines compiled and run in the sandbox",
        ),
        figure(f"first call of a function with {MODULES} modules", whole, "ms", sync=sync),
    ]  # fmt: skip
