"""What ``@fleet.function`` takes: friendly values in, checked units out. Standard library only.

Units: ``*_s`` seconds, ``*_bytes`` bytes. Errors: InvalidOption that names the option and what it allows.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.ids import check_token
from fleet.protocol.triggers import Trigger, check_on
from fleet.protocol.units import parse_bytes, parse_seconds

Duration = float | str
"""Seconds, or a text with a unit: ``"250ms"``, ``"10m"``, ``"7d"``."""

_ATTEMPTS_MAX = 100
_DELAY_S_MAX = 24 * 3600.0
_RESULT_TTL_S_MAX = limits.RESULT_TTL_S_DEFAULT
"""Blobs of results live a day longer than this, whatever the function asks for."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[0-9A-Za-z.*+!_-]+"
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})\s*(?:\[(?P<extras>\s*(?:{_NAME}\s*(?:,\s*{_NAME}\s*)*)?)\])?\s*"
    rf"(?P<versions>{_VERSION}(?:\s*,\s*{_VERSION})*)?\s*\Z"
)
"""The part of PEP 508 that names packages of an index."""
_SPACE = re.compile(r"\s+")
_PACKAGES_HINT = 'give names and versions from the package index, as in packages=["python-slugify==8.0.4"]'


@dataclass(frozen=True, slots=True)
class Retries:
    """When errors of the function itself are tried again. Departing owners never cost an attempt.

    ``max_attempts`` counts all attempts, the first included (1 to 100). Before attempt n the call waits
    ``delay * backoff ** (n - 2)``, at most ``max_delay`` (seconds, or texts like ``"10s"``).
    """

    max_attempts: int = 3
    delay: Duration = 1.0
    backoff: float = 2.0
    max_delay: Duration = 60.0

    def __post_init__(self) -> None:
        attempts = self.max_attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= _ATTEMPTS_MAX:
            raise InvalidOption(f"max_attempts={attempts!r} is out of range: allowed is 1 to {_ATTEMPTS_MAX}")
        if isinstance(self.backoff, bool) or not isinstance(self.backoff, int | float) or not 1 <= self.backoff <= 100:
            raise InvalidOption(f"backoff={self.backoff!r} is out of range: allowed is 1 to 100")
        parse_seconds(self.delay, "delay", 0.0, _DELAY_S_MAX)
        parse_seconds(self.max_delay, "max_delay", 0.0, _DELAY_S_MAX)

    @property
    def delay_s(self) -> float:
        """Pause before the second attempt, in seconds."""
        return parse_seconds(self.delay, "delay", 0.0, _DELAY_S_MAX)

    @property
    def max_delay_s(self) -> float:
        """Longest pause, in seconds."""
        return parse_seconds(self.max_delay, "max_delay", 0.0, _DELAY_S_MAX)


@dataclass(frozen=True, slots=True)
class Requires:
    """What the car must offer: a ``region``; ``min_stay``, how long it is expected to stay at least."""

    region: str | None = None
    min_stay: Duration | None = None

    def __post_init__(self) -> None:
        if self.region is not None:
            if not isinstance(self.region, str):
                raise InvalidOption(f"region={self.region!r} is no text")
            check_token(self.region, "region")
        if self.min_stay is not None:
            parse_seconds(self.min_stay, "min_stay", 0.0, _DELAY_S_MAX)

    @property
    def min_stay_s(self) -> float | None:
        """``min_stay`` in seconds."""
        return None if self.min_stay is None else parse_seconds(self.min_stay, "min_stay", 0.0, _DELAY_S_MAX)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jax lane: a car runs concurrent calls of a function as one, joined along the leading dimension of its arrays.

    ``max_size`` rows at most (1 to 1024); the first call of a batch waits for others up to ``max_wait`` (seconds, or a text
    like ``"5ms"``; at most one second).
    """

    max_size: int = 64
    max_wait: Duration = "5ms"

    def __post_init__(self) -> None:
        size = self.max_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= limits.BATCH_SIZE_MAX:
            raise InvalidOption(f"max_size={size!r} is out of range: allowed is 1 to {limits.BATCH_SIZE_MAX}")
        parse_seconds(self.max_wait, "max_wait", 0.0, limits.BATCH_WAIT_S_MAX)

    @property
    def max_wait_s(self) -> float:
        """``max_wait`` in seconds."""
        return parse_seconds(self.max_wait, "max_wait", 0.0, limits.BATCH_WAIT_S_MAX)


class PlainOptions(TypedDict, total=False):
    """Keywords that leave a function's signature as it is."""

    runtime: Literal["wasm", "jax"]
    memory: int | str
    timeout: Duration
    queue_timeout: Duration | None
    retries: Retries | int | None
    on: Iterable[Trigger]
    packages: Iterable[str]
    requires: Requires | None
    isolation: Literal["instance", "call"]
    max_concurrency: int | None
    result_ttl: Duration
    batch: Batch | None
    include: Iterable[str]
    exclude: Iterable[str]
    name: str | None


class FunctionOptions(PlainOptions, total=False):
    """Keywords of ``@fleet.function`` and ``with_options``; see API documentation of ``fleet.function``."""

    params: Any


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options of one function."""

    runtime: Literal["wasm", "jax"] = "wasm"
    memory_bytes: int = limits.MEMORY_BYTES_DEFAULT
    timeout_s: float = limits.TIMEOUT_S_DEFAULT
    queue_timeout_s: float | None = None
    retries: Retries = Retries(max_attempts=1)
    requires: Requires = Requires()
    isolation: Literal["instance", "call"] = "instance"
    max_concurrency: int | None = None
    result_ttl_s: float = limits.RESULT_TTL_S_DEFAULT
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    params: Any = dataclasses.field(default=None, compare=False)  # arrays know no == of their own
    """Jax lane: the weights, a pytree of arrays, or a callable that loads one."""
    batch: Batch | None = None
    on: tuple[Trigger, ...] = ()
    name: str | None = None

    def changed(self, given: Mapping[str, Any]) -> Options:
        """A copy with the friendly options ``given`` checked and applied."""
        checked: dict[str, Any] = {}
        for key, value in given.items():
            if key in _CHECKS:
                field, check = _CHECKS[key]
                checked[field] = check(value)
            else:
                close = difflib.get_close_matches(key, _CHECKS, 1)
                hint = f"did you mean {close[0]}=?" if close else f"there are: {', '.join(sorted(_CHECKS))}"
                raise InvalidOption(f"fleet.function has no option {key}=", hint=hint)
        changed = dataclasses.replace(self, **checked)
        _check_lane(changed)
        return changed


_JAX_ALONE = ("params", "batch")
_WASM_ALONE = ("packages", "include", "exclude")


def _check_lane(options: Options) -> None:
    """InvalidOption for an option of the other lane."""
    for name in _JAX_ALONE if options.runtime == "wasm" else ():
        if getattr(options, name) is not None:
            raise InvalidOption(f'{name}= is for runtime="jax" alone', hint=f'add runtime="jax", or leave {name}= out')
    for name in _WASM_ALONE if options.runtime == "jax" else ():
        if getattr(options, name):
            raise InvalidOption(
                f'{name}= is for runtime="wasm" alone: a jax function is traced here, and no file of yours reaches a car',
                hint=f"leave {name}= out",
            )
    if options.runtime == "jax" and options.on:
        raise InvalidOption(
            'on= is for runtime="wasm" alone: a jax function takes arrays, not events',
            hint="leave on= out, and let who handles the event call it with .remote()",
        )


def _runtime(value: Any) -> str:
    if value not in ("wasm", "jax"):
        raise InvalidOption(f'runtime={value!r} is not allowed: there are "wasm" and "jax"')
    return str(value)


def _params(value: Any) -> Any:
    return value


def _batch(value: Any) -> Batch | None:
    if value is not None and not isinstance(value, Batch):
        raise InvalidOption(f'batch={value!r} is not allowed: give fleet.Batch(max_size=64, max_wait="5ms")')
    return value


def _memory(value: Any) -> int:
    return parse_bytes(value, "memory", limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_MAX)


def _timeout(value: Any) -> float:
    return parse_seconds(value, "timeout", 0.001, limits.TIMEOUT_S_MAX)


def _queue_timeout(value: Any) -> float | None:
    return None if value is None else parse_seconds(value, "queue_timeout", 0.001, _RESULT_TTL_S_MAX)


def _retries(value: Any) -> Retries:
    if isinstance(value, Retries):
        return value
    if value is None:
        return Retries(max_attempts=1)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _ATTEMPTS_MAX:
        raise InvalidOption(
            f"retries={value!r} is not allowed: give how often to try again (0 to {_ATTEMPTS_MAX - 1}) or fleet.Retries(...)"
        )
    return Retries(max_attempts=value + 1)


def _requires(value: Any) -> Requires:
    if value is None:
        return Requires()
    if not isinstance(value, Requires):
        raise InvalidOption(f"requires={value!r} is not allowed: give fleet.Requires(...)")
    if value.min_stay is not None:
        raise InvalidOption(
            "min_stay= can't be promised yet, because nothing here predicts when an owner leaves",
            hint="leave it out: work moves on by itself when a car departs",
        )
    return value


def _isolation(value: Any) -> str:
    if value not in ("instance", "call"):
        raise InvalidOption(f'isolation={value!r} is not allowed: there are "instance" and "call"')
    return str(value)


def _max_concurrency(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOption(f"max_concurrency={value!r} is not allowed: give a number from 1 on, or None")
    return value


def _result_ttl(value: Any) -> float:
    return parse_seconds(value, "result_ttl", limits.RESULT_TTL_S_MIN, _RESULT_TTL_S_MAX)


def _include(value: Any) -> tuple[str, ...]:
    return _globs(value, "include")


def _exclude(value: Any) -> tuple[str, ...]:
    return _globs(value, "exclude")


def _globs(value: Any, what: str) -> tuple[str, ...]:
    globs = (value,) if isinstance(value, str) else tuple(value)
    for glob in globs:
        if not isinstance(glob, str) or not glob or glob.startswith("/") or ".." in glob.split("/"):
            raise InvalidOption(f"{what}={glob!r} is not allowed: give patterns below the project's folder")
    return globs


def _packages(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidOption(f"packages={value!r} is not allowed: give a list", hint=_PACKAGES_HINT)
    given = list(value)
    if len(given) > limits.PACKAGES_MAX:
        raise InvalidOption(f"packages= names {len(given)}: allowed are {limits.PACKAGES_MAX}")
    return tuple(sorted({_requirement(one) for one in given}))


def _requirement(text: Any) -> str:
    """A requirement in one way of writing it; InvalidOption says what is wrong with it."""
    if not isinstance(text, str):
        raise InvalidOption(f"{text!r} in packages= is no text", hint=_PACKAGES_HINT)
    if "://" in text or "@" in text or text.strip().startswith((".", "/", "-", "~")) or text.strip().endswith(".whl"):
        raise InvalidOption(
            f"{text!r} in packages= is no package of an index: addresses and files aren't taken", hint=_PACKAGES_HINT
        )
    if ";" in text:
        raise InvalidOption(
            f"{text!r} in packages= has a condition", hint="leave it out: every car runs the same Python, 3.14"
        )
    found = _REQUIREMENT.match(text.strip())
    if found is None:
        raise InvalidOption(f"{text!r} in packages= is no requirement", hint=_PACKAGES_HINT)
    extras = ",".join(sorted(filter(None, _SPACE.sub("", found["extras"] or "").split(","))))
    versions = ",".join(sorted(filter(None, _SPACE.sub("", found["versions"] or "").split(","))))
    return re.sub(r"[-_.]+", "-", found["name"]).lower() + (f"[{extras}]" if extras else "") + versions


def _name(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidOption(f"name={value!r} is no text")
    return None if value is None else check_token(value, "name")


_CHECKS: dict[str, tuple[str, Any]] = {
    "runtime": ("runtime", _runtime),
    "memory": ("memory_bytes", _memory),
    "timeout": ("timeout_s", _timeout),
    "queue_timeout": ("queue_timeout_s", _queue_timeout),
    "retries": ("retries", _retries),
    "requires": ("requires", _requires),
    "isolation": ("isolation", _isolation),
    "max_concurrency": ("max_concurrency", _max_concurrency),
    "result_ttl": ("result_ttl_s", _result_ttl),
    "include": ("include", _include),
    "exclude": ("exclude", _exclude),
    "packages": ("packages", _packages),
    "params": ("params", _params),
    "batch": ("batch", _batch),
    "on": ("on", check_on),
    "name": ("name", _name),
}
