"""Makes a function known to the platform: its manifest, and its bundle where that is missing there."""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import fleet
from fleet._api import Api
from fleet._blobs import Blobs
from fleet._bundle import Bundle, bundle_of
from fleet._classes import Classes
from fleet._function import Function
from fleet._params import need_arrays
from fleet._portable.arguments import ArgumentPickler
from fleet._schema import schema_of
from fleet._triggers import messages_of, takes_event
from fleet._upload import Read, patience_s, upload
from fleet.protocol.errors import DeployError
from fleet.protocol.messages import (
    FunctionInfo,
    FunctionsReply,
    FunctionsRequest,
    Manifest,
    Package,
    Program,
    RegisterReply,
    RegisterRequest,
    Requires,
    Retries,
)
from fleet.protocol.subjects import ApiVerb

if TYPE_CHECKING:
    from fleet._jax.program import Traced
    from fleet._packages.cache import Lock
    from fleet._packages.locking import Tell

TEXT_CHARS_MAX = 2000
NAMED_S = 2.0
"""Calls by name go to the version of a jax function that was live so long ago at most."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Packs(Protocol):
    """Packs the arguments of calls of one version."""

    def dumps(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes: ...


@dataclass(slots=True)
class Bound:
    """One version of a function as one client calls it: where it lies, and how arguments are packed for it."""

    client: object
    app: str
    function: str
    version: str | None
    pickler: Packs
    manifest: Manifest | None = None
    """None where it was found by name."""
    read: Read | None = None
    """The bytes behind a digest that the manifest names."""
    classes: Classes | None = None
    """What its results may be made of; None where its source is not here."""
    until_s: float = math.inf
    """Until when it is taken for the live version (``time.monotonic()``)."""

    def is_stale(self) -> bool:
        """Whether to ask again which version is live."""
        return time.monotonic() > self.until_s


def bind(client: object, function: Function[Any, Any]) -> Bound:
    """The function for ``client``, not registered yet; DeployError when it can't travel."""
    manifest, bundle, packages = describe(function, function.app_name)
    tops = packages.tops if packages is not None else ()
    pickler = ArgumentPickler(bundle.modules, bundle.members, tops)
    classes = Classes(function._raw, pickler.classes)
    read = functools.partial(code, bundle=bundle, packages=packages)
    return Bound(client, manifest.app, manifest.function, None, pickler, manifest, read, classes)


def bind_traced(client: object, function: Function[Any, Any], traced: Traced) -> Bound:
    """One program of a jax function for ``client``, not registered yet."""
    manifest = describe_traced(function, function.app_name, traced)
    classes = Classes(function._raw, unpack=traced.unpack)
    return Bound(client, manifest.app, manifest.function, None, _NEVER, manifest, traced.read, classes)


_NEVER = ArgumentPickler(None)
"""In the place of a pickler: calls of the jax lane are packed by their program."""


async def find(api: Api, function: Function[Any, Any]) -> FunctionInfo | None:
    """What the platform says of a function by its name; NotDeployed if there is none."""
    ref = function._ref
    assert ref is not None, function
    request = FunctionsRequest(app=ref.app, function=ref.function, version=ref.version)
    reply, _ = await api.ask(ApiVerb.FUNCTIONS, request, FunctionsReply)
    return next((one for one in reply.functions if one.manifest.function == ref.function), None)


def bind_named(client: object, function: Function[Any, Any], found: FunctionInfo | None) -> Bound:
    """A function by its name: its arguments are pickled, or packed as the manifest of a jax function says.

    Those of a jax function are calls of the very version that was found, for NAMED_S.
    """
    ref = function._ref
    assert ref is not None, function
    if found is None or found.manifest.program.jax is None:
        return Bound(client, ref.app, ref.function, ref.version, ArgumentPickler(None))
    specs = (*found.manifest.program.jax.inputs, *found.manifest.program.jax.outputs)
    need_arrays(f"{ref.app}.{ref.function} takes or returns arrays", (one.dtype for one in specs))
    from fleet._jax.named import NamedPickler, with_refs  # Here: it imports numpy.

    until_s = math.inf if ref.version is not None else time.monotonic() + NAMED_S
    return Bound(
        client, ref.app, ref.function, found.version, NamedPickler(found.manifest), until_s=until_s,
        classes=Classes(unpack=with_refs),
    )  # fmt: skip


def describe(function: Function[Any, Any], app: str, tell: Tell | None = None) -> tuple[Manifest, Bundle, Lock | None]:
    """The manifest of a function as part of ``app``, and what it names: the bundle, and the packages if there are any.

    Packages that this machine doesn't know yet are resolved and tried, which takes seconds: ``tell`` as in
    ``_packages.locking.lock``.
    """
    options = function.options
    packages = lock(function, tell)
    bundle = bundle_of(function, packages.tops if packages is not None else ())
    program = Program(
        runtime=options.runtime,
        bundle=bundle.digest,
        bundle_bytes=len(bundle.data),
        module=bundle.module,
        qualname=bundle.qualname,
        memory_bytes=options.memory_bytes,
        timeout_s=options.timeout_s,
        isolation=options.isolation,
        packages=[
            Package(name=one.name, version=one.version, digest=one.digest, size_bytes=one.size_bytes)
            for one in (packages.packages if packages is not None else ())
        ],
    )
    wheels = {one.wheel: one.wheel_sha256 for one in packages.packages} if packages is not None else {}
    return _manifest(function, app, program, wheels), bundle, packages


def describe_traced(function: Function[Any, Any], app: str, traced: Traced) -> Manifest:
    """The manifest of one program of a jax function as part of ``app``."""
    options = function.options
    program = Program(
        runtime="jax",
        bundle=traced.digest,
        bundle_bytes=len(traced.bundle),
        module="",
        qualname=function.display_name,
        memory_bytes=options.memory_bytes,
        timeout_s=options.timeout_s,
        isolation=options.isolation,
        jax=traced.jax_program,
    )
    return _manifest(function, app, program, {})


def _manifest(function: Function[Any, Any], app: str, program: Program, wheels: dict[str, str]) -> Manifest:
    options = function.options
    retries = options.retries
    json_schema, json_why_not = schema_of(function)
    return Manifest(
        app=app,
        function=function.name,
        display_name=function.display_name,
        program=program,
        retries=Retries(
            max_attempts=retries.max_attempts,
            delay_s=retries.delay_s,
            backoff=retries.backoff,
            max_delay_s=retries.max_delay_s,
        ),
        requires=Requires(region=options.requires.region, min_stay_s=options.requires.min_stay_s),
        queue_timeout_s=options.queue_timeout_s,
        max_concurrency=options.max_concurrency,
        result_ttl_s=options.result_ttl_s,
        yields=function.yields,
        signature=signature_text(function),
        doc=(inspect.getdoc(function._raw) or "").strip()[:TEXT_CHARS_MAX],
        triggers=messages_of(function),
        takes_event=takes_event(function),
        json_schema=json_schema,
        json_why_not=json_why_not,
        wheels=wheels,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        sdk=fleet.__version__,
    )


def lock(function: Function[Any, Any], tell: Tell | None = None) -> Lock | None:
    """What the packages of a function stand for; None where it names none. See ``_packages.locking.lock``."""
    if not function.options.packages:
        return None
    from fleet._packages import locking  # Here: resolvers and parsers of settings that most scripts never need.

    return locking.lock(function.options.packages, tell)


def code(digest: str, bundle: Bundle, packages: Lock | None) -> bytes:
    """What the platform misses of a function's code: its bundle, or one of its packages."""
    if digest == bundle.digest:
        return bundle.data
    assert packages is not None, "the platform misses what was named to it"
    return packages.read(digest)


async def register(api: Api, blobs: Blobs, bound: Bound) -> str:
    """Register the version of ``bound`` and note it there; only code that is missing there is sent."""
    assert bound.manifest is not None and bound.read is not None
    request = RegisterRequest(manifests=[bound.manifest])
    timeout_s = patience_s(request.manifests)
    reply, _ = await api.ask(ApiVerb.REGISTER, request, RegisterReply, timeout_s=timeout_s)
    if reply.missing:
        await upload(blobs, reply.missing, bound.read)
        reply, _ = await api.ask(ApiVerb.REGISTER, request, RegisterReply, timeout_s=timeout_s)
    if reply.missing or not reply.versions:
        raise DeployError(f"the platform did not keep the code of {bound.app}.{bound.function}", hint="try again")
    bound.version = reply.versions[0]
    return bound.version


class _Bare(str):
    """An annotation kept as text shows as that text, not quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def signature_text(function: Function[Any, Any]) -> str:
    """``(x: int, y: int = 1) -> int``, the same in every process; empty if there is none."""
    assert function._raw is not None
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    bare = [
        one.replace(annotation=_Bare(one.annotation)) if isinstance(one.annotation, str) else one
        for one in signature.parameters.values()
    ]
    returns = signature.return_annotation
    signature = signature.replace(
        parameters=bare, return_annotation=_Bare(returns) if isinstance(returns, str) else returns
    )
    return _OUR_NAME.sub(_public, _ADDRESS.sub("", str(signature)))[:TEXT_CHARS_MAX]


_OUR_NAME = re.compile(r"\bfleet(?:\.\w+)*\.(\w+)\b")
"""Of a class, with the module that it happens to stand in."""


def _public(name: re.Match[str]) -> str:
    """As developers write it."""
    return f"fleet.{name[1]}" if name[1] in fleet.__all__ else name[0]
