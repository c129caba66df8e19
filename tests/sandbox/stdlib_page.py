"""Make ``docs/standard-library.md`` from what the probe sees: ``python -m tests.sandbox.stdlib_page``."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from runtime.guest.build import ensure_guest
from tests.sandbox.stdlib_probe import Seen, probe
from tests.sandbox.wasm_bench import Bench

PAGE = Path(__file__).parents[2] / "docs" / "standard-library.md"

_NAMED = re.compile(r"^\S+ (isn't available on a car)")
_HEAD = """# The standard library on a car

<!-- Made by `make docs` from a probe that runs in the sandbox; a test compares it. Don't edit it. -->

Functions run in CPython {version}, compiled to WebAssembly, whatever Python you call them from. The whole standard library
is loaded before your function is. A sandbox has one thread in one process, no network, no terminal, and files of its own
in memory. What needs more raises an error that says so. Every line below was tried.
"""

_BEHAVIOUR = """
## What works in its own way

- **Threads.** `ThreadPoolExecutor`, `asyncio.to_thread` and `run_in_executor` do the work at once, in the calling thread:
  results, exceptions, `as_completed`, `wait` and callbacks are as ever, but nothing overlaps, and a timeout around such
  work can't interrupt it. Locks, events, conditions and queues work; a wait that nobody could end raises `RuntimeError`
  instead of hanging. Spread work over cars with `f.map(...)`.
- **asyncio.** Tasks, timeouts, queues, locks and timers are the stock ones. When all tasks wait and no timer is set, the
  loop raises `RuntimeError` instead of waiting for ever.
- **Files.** `/tmp` is a private scratch folder in memory: 64 MiB, 10,000 files, within the function's `memory=`. It is the
  working directory. There is nothing else to read or write but `/dev/null`. SQLite, `dbm`, `shelve` and archives work in it.
- **Chance.** `random`, `secrets`, `uuid` and `os.urandom` differ between calls, sandboxes and cars; `random.seed` gives the
  same numbers as anywhere. The hash of a text is the same in every sandbox, and so is the order of a set of texts.
- **Time.** The zone is UTC; `zoneinfo` has all zones. Processor time (`time.process_time`) is the time since the instance
  started, waiting included.
- **Output.** `print`, `sys.stderr`, `logging` and `warnings` go to the logs of the call, line by line. `sys.stdin` is empty.
- **Errors.** Numbers and texts of `OSError` are those of Linux. `sys.exit()` in a function reaches the caller as an error.
- **Names.** `hasattr(os, "fork")` and its like answer truthfully; the AttributeError says why.

## What stays from one call to the next

Each version of a function has instances of its own; nothing of it reaches another function. With `isolation="call"`
every call gets a fresh one. Otherwise calls that meet the same warm instance share what its modules keep (globals, caches,
loggers, context variables, `random`'s state) and the files in `/tmp`. After each call the working directory, `sys.stdout`,
`sys.stderr`, `sys.stdin`, `os.environ`, `sys.argv`, decimal's context and the recursion limit are put back to what they
were when the function's module had been imported. A sandbox ends without a word: functions given to `atexit` don't run.
"""


def render(seen: Seen) -> str:
    """The page."""
    version = ".".join(seen.values["sys.version_info[:3]"].strip("()").split(", "))
    return "".join(
        [_HEAD.format(version=version), _missing(seen), _refused(seen), _BEHAVIOUR, _values(seen), _working(seen)]
    )


def _missing(seen: Seen) -> str:
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, said in seen.modules.items():
        if said:
            reasons[said.partition(": ")[2]].append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {reason} |\n" for reason, names in reasons.items()]
    return f"\n## Modules that can't be imported\n\n| module | because |\n|---|---|\n{''.join(rows)}"


def _refused(seen: Seen) -> str:
    text = "\n## What is there and can't be used\n"
    for area, lines in seen.tried.items():
        refused: dict[tuple[str, str], list[str]] = defaultdict(list)
        for line, outcome in lines.items():
            if outcome[0]:
                refused[outcome[0], _NAMED.sub(r"... \1", outcome[1])].append(f"`{_shown(line)}`")
        if refused:
            text += f"\n### {area}\n\n| tried | raises |\n|---|---|\n"
            for (kind, said), names in refused.items():
                text += f"| {'<br>'.join(names)} | {f'`{kind}`: {said}' if said else f'`{kind}`'} |\n"
    return text


def _values(seen: Seen) -> str:
    rows = [f"| `{name}` | `{value}` |\n" for name, value in seen.values.items()]
    return f"\n## What programs are told about where they are\n\n| asked | answer |\n|---|---|\n{''.join(rows)}"


def _working(seen: Seen) -> str:
    modules = ", ".join(f"`{name}`" for name, said in seen.modules.items() if not said)
    text = f"\n## What works\n\nThese modules can be imported: {modules}.\n\nThese lines were tried and work:\n\n```python\n"
    for area, lines in seen.tried.items():
        working = [_shown(line) for line, outcome in lines.items() if not outcome[0]]
        text += "".join([f"# {area}\n", *(f"{line}\n" for line in working)])
    return text + "```\n"


def _shown(line: str) -> str:
    """What is tried, without the imports that go before it."""
    return "; ".join(part for part in line.split("; ") if not part.startswith("import "))


def main() -> None:
    """Write the page."""
    image = ensure_guest(progress=lambda line: print(line, file=sys.stderr))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(probe(Bench(image))), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
