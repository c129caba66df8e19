"""What is deployed: immutable manifests by version digest, and one record per app that says which are live.

Deploy, rollback and delete change one app's record by compare-and-set, in one step: nothing is ever half-deployed. What a
deploy needs (code kept, manifests stored) is written before its record; what is left when it fails meanwhile expires.

Life: manifests that were only registered (a script's first ``.remote()``) and their code live for BLOB_TTL_S and are
renewed while they are used; what a record of an app names lives as long as the record names it.

Errors: NotDeployed, DeployError, InvalidOption, Refused.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from fleet.protocol import limits
from fleet.protocol.errors import DeployError, InvalidOption, NotDeployed, PayloadTooLarge, Refused
from fleet.protocol.ids import digest
from fleet.protocol.messages import AppRecord, AppVersion, FunctionInfo, Manifest, Message
from fleet.protocol.subjects import BUCKET_FUNCTIONS
from fnplatform.blobs import RENEW_S, BlobStore
from fnplatform.jetstream import JetStream, WrongSequence
from fnplatform.triggers.check import check_routes, check_triggers

VERSION_CHARS = 16
APP_VERSIONS_MAX = 50
"""Deploys of an app that are remembered; older ones can't be rolled back to."""
FUNCTIONS_PER_APP_MAX = 500
CACHE_MAX = 10_000
CAS_TRIES = 20


class StoredManifest(Message):
    """A manifest in the bucket. ``deployed``: some app's record names it, so it has no time to live."""

    manifest: Manifest
    deployed: bool = False
    since_unix_s: float = 0.0


# --- pure ------------------------------------------------------------------------------------------------------------


def version_of(manifest: Manifest) -> str:
    """The version digest of a manifest: of every field that isn't at its default, so new fields change no old version."""
    fields = manifest.model_dump(mode="json", exclude_defaults=True)
    return digest(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())[:VERSION_CHARS]


def check_manifest(manifest: Manifest) -> None:
    """InvalidOption or PayloadTooLarge, in one sentence, for what the platform can't run."""
    program = manifest.program
    name = f"{manifest.app}.{manifest.function}"
    if manifest.requires.min_stay_s is not None:
        raise InvalidOption(
            f"{name} asks for requires=fleet.Requires(min_stay=...), which comes with a later release",
            hint="leave min_stay out: a call whose car leaves goes on elsewhere by itself",
        )
    if not limits.MEMORY_BYTES_MIN <= program.memory_bytes <= limits.MEMORY_BYTES_MAX:
        raise InvalidOption(
            f"{name}: memory of {program.memory_bytes} bytes is not allowed:"
            f" {limits.MEMORY_BYTES_MIN} to {limits.MEMORY_BYTES_MAX}"
        )
    if not 0 < program.timeout_s <= limits.TIMEOUT_S_MAX:
        raise InvalidOption(
            f"{name}: timeout of {program.timeout_s:g} s is not allowed: up to {limits.TIMEOUT_S_MAX:g}"
        )
    if manifest.result_ttl_s < limits.RESULT_TTL_S_MIN:
        raise InvalidOption(f"{name}: result_ttl of {manifest.result_ttl_s:g} s is under {limits.RESULT_TTL_S_MIN:g}")
    if not 0 < program.bundle_bytes <= limits.BUNDLE_BYTES_MAX:
        raise PayloadTooLarge(f"{name}: code of {program.bundle_bytes} bytes is over {limits.BUNDLE_BYTES_MAX}")
    packages_bytes = sum(package.size_bytes for package in program.packages)
    if packages_bytes > limits.PACKAGES_BYTES_MAX:
        raise PayloadTooLarge(
            f"{name}: packages of {packages_bytes} bytes are over {limits.PACKAGES_BYTES_MAX}",
            hint="leave out what the function doesn't import",
        )
    weights_bytes = sum(piece.size_bytes for piece in program.jax.weights) if program.jax is not None else 0
    if weights_bytes > limits.WEIGHTS_BYTES_MAX:
        raise PayloadTooLarge(
            f"{name}: weights of {weights_bytes} bytes are over {limits.WEIGHTS_BYTES_MAX}",
            hint="use a smaller dtype, such as bfloat16, or fewer weights",
        )
    if len(manifest.model_dump_json()) > limits.MANIFEST_BYTES_MAX:
        raise PayloadTooLarge(f"{name}: its manifest is over {limits.MANIFEST_BYTES_MAX} bytes")
    check_triggers(manifest)


def code_of(manifest: Manifest) -> list[str]:
    """Digests of all blobs that a version needs to run: its bundle, its packages and its weights, each once."""
    program = manifest.program
    weights = program.jax.weights if program.jax is not None else []
    return list(
        dict.fromkeys([program.bundle, *(one.digest for one in program.packages), *(one.digest for one in weights)])
    )


def live_version(record: AppRecord) -> AppVersion:
    """The deploy that is live."""
    for version in record.versions:
        if version.number == record.live:
            return version
    raise AssertionError(f"the record of {record.app} has no version {record.live}")


def deployed(record: AppRecord | None, app: str, functions: dict[str, str], unix_s: float) -> tuple[AppRecord, bool]:
    """The record after deploying ``functions`` (token -> version), and whether that changes nothing."""
    if record is not None and live_version(record).functions == functions:
        return record, True
    versions = list(record.versions) if record is not None else []
    number = max((version.number for version in versions), default=0) + 1
    versions.append(AppVersion(number=number, created_unix_s=unix_s, functions=functions))
    return AppRecord(app=app, live=number, versions=versions[-APP_VERSIONS_MAX:]), False


def rolled_back(record: AppRecord, number: int | None) -> AppRecord:
    """The record with ``number`` live, or the one before the live one; Refused where there is none."""
    known = [version.number for version in record.versions]
    if number is None:
        earlier = [known_number for known_number in known if known_number < record.live]
        if not earlier:
            raise Refused(f"{record.app} has no version before {record.live}", hint=f"see: fleet history {record.app}")
        number = max(earlier)
    if number not in known:
        raise Refused(f"{record.app} has no version {number}", hint=f"see: fleet history {record.app}")
    return AppRecord(app=record.app, live=number, versions=record.versions)


def named(record: AppRecord | None) -> set[tuple[str, str]]:
    """Every (function, version) that a record names."""
    versions = record.versions if record is not None else []
    return {pair for version in versions for pair in version.functions.items()}


# --- the shell -------------------------------------------------------------------------------------------------------


class Registry:
    """Manifests and app records of all tenants."""

    def __init__(self, js: JetStream, blobs: BlobStore, *, unix_s: Callable[[], float] = time.time) -> None:
        self._js = js
        self._blobs = blobs
        self._unix_s = unix_s
        self._cache: OrderedDict[tuple[str, str, str, str], StoredManifest] = OrderedDict()

    def cached(self, tenant: str, app: str, function: str, version: str) -> Manifest | None:
        """The manifest if it is at hand and needs no renewal: what the hot path asks."""
        found = self._cache.get((tenant, app, function, version))
        return None if found is None or self._is_due(found) else found.manifest

    async def lookup(self, tenant: str, app: str, function: str, version: str) -> Manifest:
        """The manifest of one version, for running it; its life is renewed. NotDeployed if it isn't known."""
        at_hand = self.cached(tenant, app, function, version)
        if at_hand is not None:
            return at_hand
        stored, revision = await self._load(tenant, app, function, version)
        if stored is None:
            raise NotDeployed(f"{app}.{function} has no version {version}")
        if self._is_due(stored):
            for blob in code_of(stored.manifest):
                if not await self._blobs.renew(tenant, blob):
                    raise NotDeployed(
                        f"the code of {app}.{function} version {version} has expired", hint="deploy it again"
                    )
            stored = await self._store(tenant, stored.manifest, version, revision, is_deployed=False) or stored
        self._know(tenant, version, stored)
        return stored.manifest

    async def resolve(self, tenant: str, app: str, function: str) -> str:
        """The version of a function that is live right now; NotDeployed. Always asks the bucket."""
        record = await self.record(tenant, app)
        if record is None:
            raise NotDeployed(f"there is no app {app}")
        version = live_version(record).functions.get(function)
        if version is None:
            raise NotDeployed(f"the app {app} has no function {function}", hint=f"see what it has: fleet list {app}")
        return version

    async def record(self, tenant: str, app: str) -> AppRecord | None:
        """The record of an app, or None."""
        return (await self._record(tenant, app))[0]

    async def apps(self) -> list[tuple[str, str]]:
        """Tenant and name of every app that is deployed."""
        entries = await self._js.kv_entries(BUCKET_FUNCTIONS, "app.")
        return [(tenant, app) for _, tenant, app in (key.split(".") for key in sorted(entries))]

    async def register(self, tenant: str, manifests: list[Manifest]) -> tuple[list[str], list[str]]:
        """Make manifests callable by version: (versions, digests of code that must be put first: nothing was done)."""
        missing = await self._missing(tenant, manifests)
        if missing:
            return [], missing
        versions = []
        for manifest in manifests:
            version = version_of(manifest)
            stored, revision = await self._load(tenant, manifest.app, manifest.function, version)
            if stored is None or self._is_due(stored):
                # None where another one was faster: it wrote the same manifest.
                stored = await self._store(tenant, manifest, version, revision, is_deployed=False)
            if stored is not None:
                self._know(tenant, version, stored)
            versions.append(version)
        return versions, []

    async def deploy(
        self, tenant: str, app: str, manifests: list[Manifest]
    ) -> tuple[AppVersion | None, bool, list[str]]:
        """Make ``manifests`` the whole of ``app``: (version, unchanged, missing code: then nothing was done)."""
        functions = _functions_of(app, manifests)
        check_routes(manifests)
        missing = await self._missing(tenant, manifests)
        if missing:
            return None, False, missing
        for manifest in manifests:
            gone = [blob for blob in code_of(manifest) if not await self._blobs.keep(tenant, blob)]
            if gone:
                return None, False, gone
            version = functions[manifest.function]
            stored, revision = await self._load(tenant, app, manifest.function, version)
            if stored is None or not stored.deployed:
                await self._store(tenant, manifest, version, revision, is_deployed=True)
        unchanged = False

        def change(record: AppRecord | None) -> AppRecord:
            nonlocal unchanged
            fresh, unchanged = deployed(record, app, functions, self._unix_s())
            return fresh

        before, after = await self._change(tenant, app, change)
        await self._settle(tenant, app, named(before) ^ named(after))
        return live_version(after), unchanged, []

    async def rollback(self, tenant: str, app: str, number: int | None) -> AppVersion:
        """Make an earlier version live again; NotDeployed, Refused."""

        def change(record: AppRecord | None) -> AppRecord:
            if record is None:
                raise NotDeployed(f"there is no app {app}")
            return rolled_back(record, number)

        return live_version((await self._change(tenant, app, change))[1])

    async def delete(self, tenant: str, app: str) -> None:
        """Remove the app's record; what it named lives on for a while, for calls in flight. NotDeployed."""
        for _ in range(CAS_TRIES):
            record, revision = await self._record(tenant, app)
            if record is None:
                raise NotDeployed(f"there is no app {app}")
            try:
                await self._js.kv_delete(BUCKET_FUNCTIONS, f"app.{tenant}.{app}", revision)
            except WrongSequence:
                continue
            await self._settle(tenant, app, named(record))
            return
        raise Refused(f"the app {app} is being changed by others all the time", hint="try again")

    async def functions(self, tenant: str, app: str | None = None, function: str | None = None) -> list[FunctionInfo]:
        """What is live of one app or of all, by app and function."""
        if app is not None:
            record = await self.record(tenant, app)
            records = [record] if record is not None else []
        else:
            entries = await self._js.kv_entries(BUCKET_FUNCTIONS, f"app.{tenant}.")
            records = [AppRecord.model_validate_json(entries[key]) for key in sorted(entries)]
        found = []
        for record in records:
            live = live_version(record)
            for token, version in sorted(live.functions.items()):
                if function is None or token == function:
                    manifest = await self.lookup(tenant, record.app, token, version)
                    found.append(FunctionInfo(manifest=manifest, version=version, app_number=live.number))
        return found[: limits.LIST_ROWS_MAX]

    # --- inside -------------------------------------------------------------------------------------------------

    async def _missing(self, tenant: str, manifests: list[Manifest]) -> list[str]:
        if len(manifests) > FUNCTIONS_PER_APP_MAX:
            raise DeployError(f"{len(manifests)} functions at once are over the limit of {FUNCTIONS_PER_APP_MAX}")
        for manifest in manifests:
            check_manifest(manifest)
        wanted = dict.fromkeys(blob for manifest in manifests for blob in code_of(manifest))
        return [blob for blob in wanted if not await self._blobs.renew(tenant, blob)]

    async def _record(self, tenant: str, app: str) -> tuple[AppRecord | None, int]:
        found = await self._js.kv_get(BUCKET_FUNCTIONS, f"app.{tenant}.{app}")
        return (None, 0) if found is None else (AppRecord.model_validate_json(found[0]), found[1])

    async def _change(
        self, tenant: str, app: str, change: Callable[[AppRecord | None], AppRecord]
    ) -> tuple[AppRecord | None, AppRecord]:
        """Compare-and-set of an app's record: what it was and what it is."""
        key = f"app.{tenant}.{app}"
        for _ in range(CAS_TRIES):
            before, revision = await self._record(tenant, app)
            after = change(before)
            if after == before:
                return before, after
            data = after.model_dump_json(exclude_defaults=True).encode()
            try:
                if before is None:
                    await self._js.kv_create(BUCKET_FUNCTIONS, key, data)
                else:
                    await self._js.kv_update(BUCKET_FUNCTIONS, key, data, revision)
            except WrongSequence:
                continue
            return before, after
        raise Refused(f"the app {app} is being changed by others all the time", hint="try again")

    async def _settle(self, tenant: str, app: str, pairs: Iterable[tuple[str, str]]) -> None:
        """Make stored manifests agree with the app's record about being deployed, and code with manifests.

        Others may change the record meanwhile. Each reads the record first and goes on until a pass finds nothing to do,
        so whoever comes last sees what all others did.
        """
        wanted = sorted(pairs)
        gone: set[str] = set()
        for _ in range(CAS_TRIES):
            now_named = named(await self.record(tenant, app))
            quiet = True
            for function, version in wanted:
                stored, revision = await self._load(tenant, app, function, version)
                is_named = (function, version) in now_named
                if stored is None or stored.deployed == is_named:
                    continue
                quiet = False
                code = code_of(stored.manifest)
                if is_named:
                    for blob in code:
                        await self._blobs.keep(tenant, blob)
                else:
                    gone.update(code)
                await self._store(tenant, stored.manifest, version, revision, is_deployed=is_named)
            if quiet:
                break
        if gone:
            for blob in gone - await self._deployed_code(tenant):
                await self._blobs.keep(tenant, blob, kept=False)
            for blob in gone & await self._deployed_code(tenant):
                await self._blobs.keep(tenant, blob)

    async def _deployed_code(self, tenant: str) -> set[str]:
        entries = await self._js.kv_entries(BUCKET_FUNCTIONS, f"m.{tenant}.")
        stored = [StoredManifest.model_validate_json(data) for data in entries.values()]
        return {blob for one in stored if one.deployed for blob in code_of(one.manifest)}

    def _is_due(self, stored: StoredManifest) -> bool:
        return not stored.deployed and self._unix_s() - stored.since_unix_s > RENEW_S

    async def _load(self, tenant: str, app: str, function: str, version: str) -> tuple[StoredManifest | None, int]:
        found = await self._js.kv_get(BUCKET_FUNCTIONS, _manifest_key(tenant, app, function, version))
        return (None, 0) if found is None else (StoredManifest.model_validate_json(found[0]), found[1])

    async def _store(
        self, tenant: str, manifest: Manifest, version: str, revision: int, *, is_deployed: bool
    ) -> StoredManifest | None:
        """Write it if it still has ``revision``; None if somebody else wrote it meanwhile."""
        stored = StoredManifest(manifest=manifest, deployed=is_deployed, since_unix_s=self._unix_s())
        key = _manifest_key(tenant, manifest.app, manifest.function, version)
        data = stored.model_dump_json(exclude_defaults=True).encode()
        ttl_s = None if is_deployed else limits.BLOB_TTL_S
        try:
            await self._js.publish(f"$KV.{BUCKET_FUNCTIONS}.{key}", data, expect_last_subject_seq=revision, ttl_s=ttl_s)
        except WrongSequence:
            return None
        self._know(tenant, version, stored)
        return stored

    def _know(self, tenant: str, version: str, stored: StoredManifest) -> None:
        key = (tenant, stored.manifest.app, stored.manifest.function, version)
        self._cache[key] = stored
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_MAX:
            self._cache.popitem(last=False)


def _manifest_key(tenant: str, app: str, function: str, version: str) -> str:
    return f"m.{tenant}.{app}.{function}.{version}"


def _functions_of(app: str, manifests: list[Manifest]) -> dict[str, str]:
    if not manifests:
        raise DeployError(f"the app {app} has no function", hint="decorate one with @fleet.function")
    functions: dict[str, str] = {}
    for manifest in manifests:
        if manifest.app != app:
            raise DeployError(f"{manifest.app}.{manifest.function} is no function of the app {app}")
        if manifest.function in functions:
            raise DeployError(f"the app {app} has two functions called {manifest.function}")
        functions[manifest.function] = version_of(manifest)
    return functions
