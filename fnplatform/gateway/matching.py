"""Which ``fleet.http`` trigger a request is for: pure.

A path is matched segment by segment, still percent-encoded, so that ``%2F`` stays inside its segment. Where several
routes match, at the first segment where they differ an exact one beats ``{name}``, which beats ``{name:path}``; of equals,
the first by app and function counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from fleet.protocol.messages import FunctionInfo, HttpTrigger

_EXACT, _ONE, _REST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Route:
    """One trigger of one function."""

    method: str
    path: str
    info: FunctionInfo
    segments: tuple[tuple[int, str], ...]
    """(kind, text or name) of each segment; the smaller kind is the closer match."""


@dataclass(frozen=True, slots=True)
class Match:
    """A route, and what its parameters stand for."""

    route: Route
    path_params: dict[str, str]


@dataclass(frozen=True, slots=True)
class Missed:
    """No route: of another method (then ``allowed`` names those there are), or at all."""

    allowed: tuple[str, ...] = ()


def routes_of(functions: Iterable[FunctionInfo]) -> list[Route]:
    """Every http trigger of the functions, best first."""
    routes = [
        Route(trigger.method, trigger.path, info, _segments(trigger.path))
        for info in functions
        for trigger in info.manifest.triggers
        if isinstance(trigger, HttpTrigger)
    ]
    return sorted(
        routes,
        key=lambda one: ([kind for kind, _ in one.segments], one.info.manifest.app, one.info.manifest.function),
    )


def _segments(path: str) -> tuple[tuple[int, str], ...]:
    found = []
    for part in path.removeprefix("/").split("/"):
        if part.startswith("{") and part.endswith("}"):
            name, _, kind = part[1:-1].partition(":")
            found.append((_REST if kind == "path" else _ONE, name))
        else:
            found.append((_EXACT, unquote(part)))
    return tuple(found)


def match(routes: Sequence[Route], method: str, raw_path: str) -> Match | Missed:
    """The best route for a request, ``raw_path`` percent-encoded, from its first slash on. HEAD takes GET where there is
    no other."""
    parts = raw_path.removeprefix("/").split("/")
    allowed: list[str] = []
    instead: Match | None = None
    for route in routes:
        params = _fits(route.segments, parts)
        if params is None:
            continue
        if route.method == method:
            return Match(route, params)
        if route.method == "GET" and method == "HEAD" and instead is None:
            instead = Match(route, params)
        allowed.append(route.method)
    if instead is not None:
        return instead
    if "GET" in allowed:
        allowed.append("HEAD")
    return Missed(tuple(sorted(set(allowed))))


def _fits(segments: Sequence[tuple[int, str]], parts: Sequence[str]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for number, (kind, text) in enumerate(segments):
        if kind == _REST:
            params[text] = "/".join(unquote(part) for part in parts[number:])
            return params
        if number >= len(parts):
            return None
        part = unquote(parts[number])
        if kind == _EXACT:
            if part != text:
                return None
        elif not part:
            return None
        else:
            params[text] = part
    return params if len(parts) == len(segments) else None
