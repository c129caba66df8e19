"""Which triggers are live: those in the manifests that the records of apps name. ``Table`` is pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from fleet.protocol.ids import digest
from fleet.protocol.messages import AppRecord, Manifest
from fleet.protocol.messages.triggers import AtTrigger, CronTrigger, EveryTrigger, SubjectTrigger, Trigger
from fnplatform.registry import live_version

TRIGGER_ID_CHARS = 16
REST = ">"
ONE = "*"


def trigger_id(tenant: str, app: str, function: str, trigger: Trigger) -> str:
    """Names a trigger: the same for every version of the function that has it unchanged."""
    text = "\0".join((tenant, app, function, trigger.model_dump_json(exclude_defaults=False)))
    return digest(text.encode())[:TRIGGER_ID_CHARS]


@dataclass(frozen=True, slots=True)
class Bound:
    """A trigger of a version of a function that is live (or was)."""

    tenant: str
    app: str
    function: str
    version: str
    manifest: Manifest = field(repr=False, compare=False)
    index: int
    """Which of the manifest's triggers."""
    trigger: Trigger
    id: str

    @property
    def owner(self) -> tuple[str, str, str]:
        """Whose it is: an event starts a function once, however many of its triggers match."""
        return self.tenant, self.app, self.function


def bounds_of(tenant: str, version: str, manifest: Manifest) -> list[Bound]:
    """All triggers of one version of a function."""
    return [
        Bound(
            tenant, manifest.app, manifest.function, version, manifest, index, trigger,
            trigger_id(tenant, manifest.app, manifest.function, trigger),
        )
        for index, trigger in enumerate(manifest.triggers)
    ]  # fmt: skip


def subject_matches(pattern: str, subject: str) -> bool:
    """Whether ``subject`` is one of ``pattern``: tokens, ``*`` for one, ``>`` last for one or more."""
    wanted, got = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == REST:
            return len(got) > index
        if index >= len(got) or token not in (ONE, got[index]):
            return False
    return len(wanted) == len(got)


class _Node:
    """Patterns that share their first tokens."""

    __slots__ = ("bounds", "next", "rest")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
        self.bounds: list[Bound] = []
        self.rest: list[Bound] = []


class Table:
    """Triggers by app, subject triggers by their patterns. An app's triggers change in one step."""

    def __init__(self) -> None:
        self._apps: dict[tuple[str, str], list[Bound]] = {}
        self._trees: dict[str, _Node] = {}

    def replace(self, tenant: str, app: str, bounds: Iterable[Bound]) -> None:
        """From now on these are the triggers of the app; none: it has none."""
        fresh = list(bounds)
        if fresh:
            self._apps[tenant, app] = fresh
        else:
            self._apps.pop((tenant, app), None)
        tree = _Node()
        for (owner, _), several in self._apps.items():
            if owner == tenant:
                for bound in several:
                    _insert(tree, bound)
        self._trees[tenant] = tree

    def of_app(self, tenant: str, app: str) -> list[Bound]:
        """The triggers of an app."""
        return list(self._apps.get((tenant, app), ()))

    def apps(self) -> list[tuple[str, str]]:
        """Tenant and name of every app that has triggers."""
        return list(self._apps)

    def all(self) -> list[Bound]:
        """Every trigger."""
        return [bound for several in self._apps.values() for bound in several]

    def clocks(self) -> list[Bound]:
        """Triggers that are clocks."""
        return [bound for bound in self.all() if isinstance(bound.trigger, CronTrigger | EveryTrigger | AtTrigger)]

    def matching(self, tenant: str, subject: str) -> list[Bound]:
        """Subject triggers whose pattern matches, those of one function in the order of its manifest."""
        tree = self._trees.get(tenant)
        if tree is None:
            return []
        found: list[Bound] = []
        level = [tree]
        for token in subject.split("."):
            following: list[_Node] = []
            for node in level:
                found += node.rest
                for name in (token, ONE):
                    child = node.next.get(name)
                    if child is not None:
                        following.append(child)
            level = following
        for node in level:
            found += node.bounds
        if len(found) > 1:
            found.sort(key=lambda bound: (bound.app, bound.function, bound.index))
        return found


def _insert(node: _Node, bound: Bound) -> None:
    if not isinstance(bound.trigger, SubjectTrigger):
        return
    for token in bound.trigger.subject.split("."):
        if token == REST:
            node.rest.append(bound)
            return
        node = node.next.setdefault(token, _Node())
    node.bounds.append(bound)


# --- loading ---------------------------------------------------------------------------------------------------------


class Manifests(Protocol):
    """Where manifests and records come from."""

    async def lookup(self, tenant: str, app: str, function: str, version: str) -> Manifest: ...
    async def record(self, tenant: str, app: str) -> AppRecord | None: ...
    async def apps(self) -> list[tuple[str, str]]:
        """Tenant and name of every app that is deployed."""
        ...


async def load_app(manifests: Manifests, tenant: str, record: AppRecord | None) -> list[Bound]:
    """The triggers of an app as deployed; none if it isn't. NotDeployed if what the record names is gone meanwhile."""
    found: list[Bound] = []
    if record is not None:
        for function, version in sorted(live_version(record).functions.items()):
            found += bounds_of(tenant, version, await manifests.lookup(tenant, record.app, function, version))
    return found
