"""What a job needs beside its grant: code, weights, large arguments, values of ``fleet.put``. At hand, from disk, or under
its lease."""

from __future__ import annotations

import functools

import anyio

from fleet.protocol.errors import FleetError
from fleet.protocol.frames import Bytes
from fleet.protocol.limits import BUNDLE_BYTES_MAX, PACKAGE_BYTES_MAX, PAYLOAD_BYTES_MAX
from fleet.protocol.messages import LeaseGrant, Weights
from runtime.agent_blobs import BlobClient
from runtime.agent_jobs import Job
from runtime.agent_types import Fetched
from runtime.bundles import BundleCache
from runtime.weights_cache import WeightsCache, WeightsFile

AT_ONCE = 4
"""Blobs of one job that are fetched at the same time."""


class Fetcher:
    """Jobs from grants, with as much as is at hand; then the rest. Code and values go through ``cache``, by digest, weights of
    jax programs through ``weights``."""

    def __init__(self, blobs: BlobClient, cache: BundleCache, weights: WeightsCache) -> None:
        self._blobs = blobs
        self._cache = cache
        self._weights = weights

    def job(self, grant: LeaseGrant, args: Bytes | None, checkpoint: Bytes | None) -> Job:
        """The job of a grant; ``args`` None: they are a blob."""
        get, program = self._cache.get, grant.program
        packages: list[Bytes] | None = []
        refs: dict[str, Bytes] | None = {}
        if program.packages:
            found = [get(package.digest) for package in program.packages]
            packages = [one for one in found if one is not None]
            packages = packages if len(packages) == len(found) else None
        if grant.refs:
            values = {ref.digest: get(ref.digest) for ref in grant.refs}
            refs = {digest: one for digest, one in values.items() if one is not None}
            refs = refs if len(refs) == len(values) else None
        weights: dict[str, WeightsFile] | None = {}
        if program.jax is not None and program.jax.weights:
            files = {piece.digest: self._weights.get(piece.digest) for piece in program.jax.weights}
            weights = {digest: one for digest, one in files.items() if one is not None}
            weights = weights if len(weights) == len(files) else None
        return Job(
            grant, args, get(program.bundle), checkpoint, packages, refs, weights,
            program_key=grant.version + program.bundle,
        )  # fmt: skip

    async def fetch(self, job: Job) -> Fetched:
        """Everything that the job needs; the first FleetError of those that came of it."""
        grant, program = job.grant, job.grant.program
        limit = anyio.CapacityLimiter(AT_ONCE)
        found: dict[str, Bytes] = {}
        errors: list[FleetError] = []
        weights = dict(job.weights or {})

        async def load(digest: str, bytes_max: int, cached: bool) -> None:
            async with limit:
                try:
                    if cached:
                        found[digest] = await self._cache.load(
                            digest, lambda: self._blobs.get(digest, job.lease, bytes_max)
                        )
                    else:
                        found[digest] = await self._blobs.get(digest, job.lease, bytes_max)
                except FleetError as error:
                    errors.append(error)

        async def load_weights(piece: Weights) -> None:
            fetch = functools.partial(self._blobs.stream, piece.digest, job.lease, piece.size_bytes)
            async with limit:
                try:
                    if not errors:
                        weights[piece.digest] = await self._weights.load(piece.digest, piece.size_bytes, fetch)
                except FleetError as error:
                    errors.append(error)

        wanted = {} if job.bundle is not None else {program.bundle: BUNDLE_BYTES_MAX}
        if job.packages is None:
            wanted.update({package.digest: PACKAGE_BYTES_MAX for package in program.packages})
        if job.refs is None:
            wanted.update({ref.digest: PAYLOAD_BYTES_MAX for ref in grant.refs})
        async with anyio.create_task_group() as group:
            for digest, bytes_max in wanted.items():
                group.start_soon(load, digest, bytes_max, True)
            if job.weights is None:
                assert program.jax is not None, "weights are of jax programs"
                for piece in {piece.digest: piece for piece in program.jax.weights}.values():
                    group.start_soon(load_weights, piece)
            if job.args is None:
                assert grant.blob is not None, "arguments lie in a part or in a blob"
                group.start_soon(load, grant.blob, PAYLOAD_BYTES_MAX, False)
        if errors:
            raise errors[0]
        args = job.args
        if args is None:
            assert grant.blob is not None, "see above"
            args = found[grant.blob]
        return Fetched(
            job,
            bundle=job.bundle if job.bundle is not None else found[program.bundle],
            args=args,
            packages=job.packages if job.packages is not None else [found[one.digest] for one in program.packages],
            refs=job.refs if job.refs is not None else {ref.digest: found[ref.digest] for ref in grant.refs},
            weights=weights,
        )
