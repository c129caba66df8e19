"""The child process: runs topics here and on the cars of ``FLEET_URL``, one JSON line on stdout for each case.

    python -m tests.conformance.run [--imported] [TOPIC...]

A topic is one file of ``cases``. It is run as a script, under the name ``__main__``, so that its functions have no module
that a car could import and travel by value. With ``--imported`` it is imported, so that its functions travel as the files
of their module; so are the topics in ``IMPORTED`` always, and those in ``SCRIPTS`` never.
All topics with ``--imported`` are those in ``BOTH``, for which the way of travelling could matter.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fleet
from tests.conformance.case import Case, Refusal, take
from tests.conformance.compare import difference

FOLDER = Path(__file__).parent / "cases"
IMPORTED = frozenset({"modules"})
SCRIPTS = frozenset({"refusals", "script"})
BOTH = frozenset(
    {
        "attributes", "classes", "closures", "coroutines", "dataclasses_", "decorators", "enums", "exceptions", "functions",
        "generators", "introspection", "lambdas", "pickling", "scoping", "streams", "typing_constructs", "values_objects",
    }
)  # fmt: skip
NEEDS = {"syntax_312": (3, 12), "syntax_313": (3, 13)}
RESULT_S = 60.0


def topics(version: tuple[int, ...], imported: bool) -> list[str]:
    """Names of the files of cases that an interpreter can read."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    names = [name for name in names if version >= NEEDS.get(name, (3, 11))]
    return [name for name in names if name in BOTH | IMPORTED] if imported else names


@contextmanager
def loaded(topic: str, imported: bool) -> Iterator[list[Case | Refusal]]:
    """The cases of a topic; meanwhile it is the ``__main__`` of this process, unless it is an imported one."""
    if imported or topic in IMPORTED:
        importlib.import_module(f"{__package__}.cases.{topic}")
        yield take()
        return
    file = FOLDER / f"{topic}.py"
    script = types.ModuleType("__main__")
    script.__file__ = str(file)
    before, sys.modules["__main__"] = sys.modules["__main__"], script
    try:
        exec(compile(file.read_text(), str(file), "exec", dont_inherit=True), script.__dict__)
        yield take()
    finally:
        sys.modules["__main__"] = before


def here(one: Case) -> Any:
    """What the case comes to in this process."""
    args = copy.deepcopy(one.args) if one.copied else one.args
    value = one.function(*args, **one.kwargs)
    if inspect.iscoroutine(value):
        return asyncio.run(value)
    if inspect.isasyncgen(value):
        return asyncio.run(_gathered(value))
    return list(value) if inspect.isgenerator(value) else value


async def _gathered(values: Any) -> list[Any]:
    return [value async for value in values]


def is_stream(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a generator."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


class Started:
    """A case that was sent to a car. Sent before it runs here: what that changes must not travel."""

    def __init__(self, one: Case) -> None:
        self._case = one
        self._error: BaseException | None = None
        try:
            function = fleet.function(**one.options)(one.function)
            if is_stream(one.function):
                stream = function.remote_gen(*one.args, **one.kwargs)
                self._get: Callable[[], Any] = lambda: list(stream)
            else:
                call = function.spawn(*one.args, **one.kwargs)
                self._get = lambda: call.result(timeout=RESULT_S)
        except Exception as error:
            self._error = error

    def verdict(self) -> str:
        """Empty when the car and this process agree; else what is different."""
        one = self._case
        local, raised_here = _outcome(lambda: here(one))
        if raised_here != (one.raises is not None) or (one.raises is not None and type(local) is not one.raises):
            return f"the case itself is wrong: it {'raised' if raised_here else 'returned'} {local!r} here"
        if self._error is not None:
            return f"not sent: {_told(self._error)}"
        remote, raised_there = _outcome(self._get)
        if raised_here != raised_there:
            verb = "raised" if raised_there else "returned"
            return f"the car {verb} {_told(remote) if raised_there else repr(remote)}, here it was {local!r}"
        if one.wording:
            return "" if type(local) is type(remote) else f"{_told(remote)} on the car, {_told(local)} here"
        return difference(local, remote)


def _outcome(run: Callable[[], Any]) -> tuple[Any, bool]:
    """What came of it, and whether it was raised."""
    try:
        return run(), False
    except Exception as error:
        return error, True


def _told(error: BaseException) -> str:
    hint = getattr(error, "hint", "")
    notes = " | ".join(getattr(error, "__notes__", ()))
    return " ".join(f"{type(error).__name__}: {error} {hint} {notes}".split())


def refusal(one: Refusal) -> str:
    """Empty when it is refused as it should be."""
    try:
        fleet.function(**one.options)(one.function).spawn(*one.args)
    except fleet.FleetError as error:
        text = f"{error} {error.hint}"
        missing = [word for word in one.words if word not in text]
        if type(error).__name__ != one.error or missing or "\n" in str(error):
            return f"refused by {_told(error)}; expected {one.error} with {one.words}"
        return ""
    except Exception as error:
        return f"refused by {_told(error)}; expected {one.error}"
    return "it was sent"


def main(chosen: list[str], imported: bool) -> None:
    """Run the topics, or all of them."""
    for topic in chosen or topics(sys.version_info[:2], imported):
        with loaded(topic, imported) as found:
            began_s = time.perf_counter()
            started = [(one, Started(one) if isinstance(one, Case) else None) for one in found]
            for one, sent in started:
                wrong = sent.verdict() if sent is not None else refusal(one)  # type: ignore[arg-type]
                line = {"topic": topic, "title": one.title, "refusal": sent is None, "wrong": wrong}
                print(json.dumps(line), flush=True)
            took_s = time.perf_counter() - began_s
        print(f"{topic}: {len(found)} cases, {took_s:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "--imported"], "--imported" in sys.argv)
