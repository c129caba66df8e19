"""Makes a function known to the platform: its manifest, and its bundle where that is missing there."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fleet
from fleet._api import Api
from fleet._blobs import Blobs
from fleet._bundle import Bundle, bundle_of
from fleet._classes import Classes
from fleet._function import Function
from fleet._portable.arguments import ArgumentPickler
from fleet._upload import patience_s, upload
from fleet.protocol.errors import DeployError
from fleet.protocol.messages import Manifest, Package, Program, RegisterReply, RegisterRequest, Requires, Retries
from fleet.protocol.subjects import ApiVerb

if TYPE_CHECKING:
    from fleet._jax.params import Params
    from fleet._packages.cache import Lock
    from fleet._packages.locking import Tell

TEXT_CHARS_MAX = 2000
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(slots=True)
class Bound:
    """A function as one client calls it: where it lies, and how arguments are packed for it."""

    client: object
    app: str
    function: str
    version: str | None
    pickler: ArgumentPickler
    manifest: Manifest | None = None
    bundle: Bundle | None = None
    packages: Lock | None = None
    weights: Params | None = None
    classes: Classes | None = None
    """What its results may be made of; None where its source is not here."""


def bind(client: object, function: Function[Any, Any]) -> Bound:
    """The function for ``client``, not registered yet; DeployError when it can't travel."""
    if function._ref is not None:
        ref = function._ref
        return Bound(client, ref.app, ref.function, ref.version, ArgumentPickler(None))
    manifest, bundle, packages = describe(function, function.app_name)
    tops = packages.tops if packages is not None else ()
    pickler = ArgumentPickler(bundle.modules, bundle.members, tops)
    classes = Classes(function._raw, pickler.classes)
    return Bound(client, manifest.app, manifest.function, None, pickler, manifest, bundle, packages, classes=classes)


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
    retries = options.retries
    manifest = Manifest(
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
        wheels={one.wheel: one.wheel_sha256 for one in packages.packages} if packages is not None else {},
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        sdk=fleet.__version__,
    )
    return manifest, bundle, packages


def lock(function: Function[Any, Any], tell: Tell | None = None) -> Lock | None:
    """What the packages of a function stand for; None where it names none. See ``_packages.locking.lock``."""
    if not function.options.packages:
        return None
    from fleet._packages import locking  # Here: resolvers and parsers of settings that most scripts never need.

    return locking.lock(function.options.packages, tell)


def code(digest: str, bundle: Bundle, packages: Lock | None, weights: Params | None = None) -> bytes | bytearray:
    """What the platform misses of a function's code: its bundle, one of its packages, or a piece of its weights."""
    if digest == bundle.digest:
        return bundle.data
    source = packages if weights is None else weights
    assert source is not None, "the platform misses what was named to it"
    return source.read(digest)


async def register(api: Api, blobs: Blobs, bound: Bound) -> str:
    """Register the version of ``bound`` and note it there; only code that is missing there is sent."""
    assert bound.manifest is not None and bound.bundle is not None
    request = RegisterRequest(manifests=[bound.manifest])
    timeout_s = patience_s(request.manifests)
    reply, _ = await api.ask(ApiVerb.REGISTER, request, RegisterReply, timeout_s=timeout_s)
    if reply.missing:
        read = functools.partial(code, bundle=bound.bundle, packages=bound.packages, weights=bound.weights)
        await upload(blobs, reply.missing, read)
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
    return _ADDRESS.sub("", str(signature))[:TEXT_CHARS_MAX]
