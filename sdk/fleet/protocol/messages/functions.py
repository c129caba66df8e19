"""Functions: manifests, versions, apps, and what asks for them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fleet.protocol import limits
from fleet.protocol.messages.base import Digest, Message, Reply, Token, Version
from fleet.protocol.messages.triggers import Trigger


class Retries(Message):
    """When a function's own errors are tried again: attempts in all, and the pause before attempt n."""

    max_attempts: int = Field(1, ge=1, le=100)
    delay_s: float = Field(1.0, ge=0)
    backoff: float = Field(2.0, ge=1)
    max_delay_s: float = Field(60.0, ge=0)


class Requires(Message):
    """What a car must offer."""

    region: str | None = None
    min_stay_s: float | None = None


class Package(Message):
    """One distribution that a function needs. Its blob is a zip of its importable files, the same for everybody."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,127}$")
    digest: Digest
    size_bytes: int = Field(gt=0, le=limits.PACKAGE_BYTES_MAX)


class ArraySpec(Message):
    """An array: numpy's name of its dtype (``float32``, ``bfloat16``), and its dimensions: numbers, or names and
    expressions of names (``b``, ``2*n``) that each call gives a size."""

    dtype: str = Field(pattern=r"^[a-z0-9_]{1,32}$")
    shape: list[int | str] = Field([], max_length=limits.ARRAY_DIMENSIONS_MAX)


class Weights(Message):
    """One piece of the weights of a jax program: a safetensors file as a blob."""

    digest: Digest
    size_bytes: int = Field(gt=0, le=limits.WEIGHTS_PIECE_BYTES_MAX)


class Batch(Message):
    """Concurrent calls that a car runs as one, joined along the leading dimension."""

    max_size: int = Field(64, ge=1, le=limits.BATCH_SIZE_MAX)
    max_wait_s: float = Field(0.005, ge=0, le=limits.BATCH_WAIT_S_MAX)


class JaxModule(Message):
    """One exported module of a bundle: where it runs, and what a car needs to read it."""

    platforms: list[Literal["cpu", "cuda", "tpu"]]
    calling_convention: int
    """Version of jax.export's calling convention."""
    stablehlo: str
    """Version of the StableHLO artifact, ``1.13.4``."""


class JaxProgram(Message):
    """What is known of a jax program without its bundle (``fleet.protocol.jax_bundle``), for matching and for callers."""

    modules: list[JaxModule] = Field([], max_length=8)
    why_not: dict[str, str] = {}
    """Platform -> why there is no module for it; ``shapes`` -> why its shapes are fixed."""
    x64: bool = False
    inputs: list[ArraySpec] = []
    """Flat arrays of one call, in order."""
    outputs: list[ArraySpec] = []
    arguments: str = ""
    """How a call's arguments make ``inputs``: JSON of ``[[parameter, tree], ...]``, see ``jax_bundle``."""
    weights: list[Weights] = Field([], max_length=limits.WEIGHTS_PIECES_MAX)
    weights_bytes: int = 0
    batch: Batch | None = None


class Program(Message):
    """What a slot needs to make an instance of one version of one function.

    With ``runtime="jax"`` the bundle is a ``fleet.protocol.jax_bundle``, and ``jax`` tells about it.
    """

    runtime: Literal["wasm", "jax"] = "wasm"
    bundle: Digest
    bundle_bytes: int
    module: str
    qualname: str
    memory_bytes: int = limits.MEMORY_BYTES_DEFAULT
    timeout_s: float = limits.TIMEOUT_S_DEFAULT
    isolation: Literal["instance", "call"] = "instance"
    packages: list[Package] = Field([], max_length=limits.PACKAGES_MAX)
    """What imports find behind the bundle, in this order."""
    jax: JaxProgram | None = None


class Manifest(Message):
    """One version of one function. Immutable; ``version`` is a digest of all the rest (see ``registry.version_of``)."""

    app: Token
    function: Token
    display_name: str
    program: Program
    retries: Retries = Retries()
    requires: Requires = Requires()
    queue_timeout_s: float | None = None
    max_concurrency: int | None = Field(None, ge=1)
    result_ttl_s: float = limits.RESULT_TTL_S_DEFAULT
    yields: bool = False
    """A generator function: its calls are streams."""
    signature: str = ""
    """For people: ``(x: int, y: int = 1) -> int``."""
    doc: str = ""
    triggers: list[Trigger] = Field([], max_length=limits.TRIGGERS_MAX)
    takes_event: bool = True
    """False: the function has no parameter, so what triggers it is not handed over."""
    json_schema: str = ""
    """JSON Schema of an object with the arguments by name, as JSON; "" where JSON can't express them."""
    json_why_not: str = ""
    """Why there is no ``json_schema``, in one sentence."""
    wheels: dict[str, Digest] = {}
    """File name -> sha256 of what ``program.packages`` were made of, as the package index has them."""
    python: str = ""
    sdk: str = ""


class FunctionRef(Message):
    """A function, at the version that is live unless ``version`` says which."""

    app: Token
    function: Token
    version: Version | None = None


class RegisterRequest(Message):
    """Make versions callable by digest without deploying them (a script's first ``.remote()``)."""

    manifests: list[Manifest]
    protocol: int = limits.PROTOCOL


class RegisterReply(Reply):
    """``missing``: digests of bundles and packages that must be put first; then ask again. ``versions``: in the order
    asked."""

    missing: list[Digest] = []
    versions: list[Version] = []


class DeployRequest(Message):
    """Make ``manifests`` the whole of ``app``, in one step."""

    app: Token
    manifests: list[Manifest]
    protocol: int = limits.PROTOCOL


class AppVersion(Message):
    """One deploy of an app: its number, counting from 1, and its functions' versions by token."""

    number: int
    created_unix_s: float
    functions: dict[str, Version]
    note: str = ""


class AppRecord(Message):
    """What the registry stores of an app. ``live`` is the number of the live version."""

    app: Token
    live: int
    versions: list[AppVersion]


class DeployReply(Reply):
    """``missing`` as in RegisterReply: nothing was deployed."""

    missing: list[Digest] = []
    app_version: AppVersion | None = None
    unchanged: bool = False


class FunctionsRequest(Message):
    """Functions that are live (of ``app``, or all); with ``function`` and ``version`` exactly that one.

    ``http``: of all apps, those with a trigger of that kind. ``revision``: what a reply said of them before; where nothing
    was deployed since, the answer is ``unchanged``.
    """

    app: Token | None = None
    function: Token | None = None
    version: Version | None = None
    http: bool = False
    revision: int = Field(0, ge=0)


class FunctionInfo(Message):
    """One function of a listing."""

    manifest: Manifest
    version: Version
    app_number: int | None = None


class FunctionsReply(Reply):
    """``revision`` and ``unchanged`` where ``http`` was asked."""

    functions: list[FunctionInfo] = []
    revision: int = 0
    unchanged: bool = False


class HistoryRequest(Message):
    app: Token


class HistoryReply(Reply):
    record: AppRecord | None = None


class RollbackRequest(Message):
    """Make an earlier version live again: ``number``, or the one before the live one."""

    app: Token
    number: int | None = None


class RollbackReply(Reply):
    app_version: AppVersion | None = None


class DeleteRequest(Message):
    """Remove an app. Refused while calls or events of it wait, unless ``cancel``."""

    app: Token
    cancel: bool = False


class DeleteReply(Reply):
    cancelled: int = 0
