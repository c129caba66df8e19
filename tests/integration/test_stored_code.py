"""Packages and values of ``fleet.put`` in the control plane: asked for, kept while they are named, read by who may."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fleet.protocol import limits
from fleet.protocol.ids import new_call_id
from fleet.protocol.messages import (
    BlobGet,
    BlobGetReply,
    BlobRef,
    CallState,
    DeleteReply,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    JaxProgram,
    Manifest,
    Package,
    RegisterReply,
    RegisterRequest,
    SubmitCall,
    SubmitReply,
    SubmitRequest,
    Weights,
)
from fleet.protocol.subjects import BLOB_PART, STREAM_BLOBS, ApiVerb, CarVerb
from tests.integration.dispatcher_rig import Plane, with_plane
from tests.integration.frontdoor_rig import Rig, with_rig

PACKAGE = b"the files of a package"
PIECES = (b"a piece of weights", b"another piece")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def package(data: bytes = PACKAGE, **more: object) -> Package:
    fields = {"name": "fnp", "version": "1.0", "digest": sha(data), "size_bytes": len(data), **more}
    return Package.model_validate(fields)


def with_packages(manifest: Manifest, *packages: Package) -> Manifest:
    program = manifest.program.model_copy(update={"packages": list(packages)})
    return manifest.model_copy(update={"program": program})


def with_weights(manifest: Manifest, *pieces: bytes) -> Manifest:
    weights = [Weights(digest=sha(piece), size_bytes=len(piece)) for piece in pieces]
    program = manifest.program.model_copy(update={"jax": JaxProgram(weights=weights)})
    return manifest.model_copy(update={"program": program})


async def lives_for_ever(rig: Rig, digest: str) -> bool:
    subject = f"$JS.API.DIRECT.GET.{STREAM_BLOBS}.blob.default.{digest}.meta"
    return (await rig.js.bus.request(subject)).header("Nats-TTL") is None


async def expire(made: Plane | Rig, digest: str) -> None:
    """What the blob's time to live does, for every process that knew it."""
    await made.js.purge(STREAM_BLOBS, BLOB_PART.wildcard(tenant="default", digest=digest))
    made.blobs._metas.clear()
    made.blobs._cache.clear()


def test_packages_are_asked_for_and_kept_as_long_as_any_app_names_them(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        other = b"another package"
        shop = with_packages(await rig.manifest(), package(), package(other, name="other"))
        bank = with_packages(await rig.manifest(app="bank"), package())
        asked, _ = await rig.ask(ApiVerb.REGISTER, RegisterRequest(manifests=[shop, bank]), RegisterReply)
        assert asked.missing == [sha(PACKAGE), sha(other)] and asked.versions == []
        await rig.put_blob(PACKAGE)
        reply, _ = await rig.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[shop]), DeployReply)
        assert reply.missing == [sha(other)] and reply.app_version is None
        await rig.put_blob(other)
        for app, manifest in (("shop", shop), ("bank", bank)):
            reply, _ = await rig.ask(ApiVerb.DEPLOY, DeployRequest(app=app, manifests=[manifest]), DeployReply)
            assert reply.app_version is not None
        assert await lives_for_ever(rig, sha(PACKAGE)) and await lives_for_ever(rig, sha(other))
        await rig.ask(ApiVerb.DELETE, DeleteRequest(app="shop"), DeleteReply)
        assert await lives_for_ever(rig, sha(PACKAGE)), "the bank needs it"
        assert not await lives_for_ever(rig, sha(other))
        (result,) = await rig.submit(rig.call(None, app="bank"))
        assert result.error is None
        await rig.ask(ApiVerb.DELETE, DeleteRequest(app="bank", cancel=True), DeleteReply)
        assert not await lives_for_ever(rig, sha(PACKAGE))

    with_rig(tmp_path, test)


def test_weights_are_asked_for_once_and_kept_with_their_versions(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        first = with_weights(await rig.manifest(), *PIECES)
        asked, _ = await rig.ask(ApiVerb.REGISTER, RegisterRequest(manifests=[first]), RegisterReply)
        assert asked.missing == [sha(piece) for piece in PIECES] and asked.versions == []
        await rig.put_blob(PIECES[0])
        reply, _ = await rig.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[first]), DeployReply)
        assert reply.missing == [sha(PIECES[1])] and reply.app_version is None
        await rig.put_blob(PIECES[1])
        second = with_weights(await rig.manifest(code=b"other code"), *PIECES)
        for manifest in (first, second):
            reply, _ = await rig.ask(ApiVerb.DEPLOY, DeployRequest(app="shop", manifests=[manifest]), DeployReply)
            assert reply.missing == [] and reply.app_version is not None, "a new version sends no weights"
        assert all([await lives_for_ever(rig, sha(piece)) for piece in PIECES])
        await rig.ask(ApiVerb.DELETE, DeleteRequest(app="shop"), DeleteReply)
        assert not any([await lives_for_ever(rig, sha(piece)) for piece in PIECES])
        huge = [Weights(digest=sha(bytes(n)), size_bytes=limits.WEIGHTS_PIECE_BYTES_MAX) for n in range(33)]
        program = first.program.model_copy(update={"jax": JaxProgram(weights=huge)})
        over = first.model_copy(update={"program": program})
        asked, _ = await rig.ask(ApiVerb.REGISTER, RegisterRequest(manifests=[over]), RegisterReply)
        assert asked.error is not None and asked.error.code == "payload_too_large" and "weights" in asked.error.message

    with_rig(tmp_path, test)


def test_packages_over_the_limits_are_refused(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        many = [package(name=f"p{number}", size_bytes=limits.PACKAGE_BYTES_MAX) for number in range(5)]
        manifest = with_packages(await rig.manifest(), *many)
        reply, _ = await rig.ask(ApiVerb.REGISTER, RegisterRequest(manifests=[manifest]), RegisterReply)
        assert reply.error is not None and reply.error.code == "payload_too_large" and "packages" in reply.error.message

    with_rig(tmp_path, test)


def test_a_call_is_taken_only_if_what_it_refers_to_is_there(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        value = b"a pickled value"
        ref = BlobRef(digest=sha(value), size_bytes=len(value))
        version = await rig.register(await rig.manifest())
        for fresh in (True, False):
            (result,) = await rig.submit(rig.call(version, refs=[ref]), fresh=fresh)
            assert result.refs_missing == [ref.digest]
            assert result.error is not None and result.error.code == "result_expired"
        await rig.put_blob(value)
        for fresh in (True, False):
            (result,) = await rig.submit(rig.call(version, refs=[ref]), fresh=fresh)
            assert result.error is None
            assert rig.dispatcher.submitted[-1][0].refs == [ref]
        for fresh in (True, False):
            lie = ref.model_copy(update={"size_bytes": 1})
            (result,) = await rig.submit(rig.call(version, refs=[lie]), fresh=fresh)
            assert result.error is not None and result.error.code == "refused"
        await expire(rig, ref.digest)
        (result,) = await rig.submit(rig.call(version, refs=[ref]), fresh=True)
        assert result.refs_missing == [ref.digest]

    with_rig(tmp_path, test)


async def submit_with(made: Plane, ref: BlobRef) -> str:
    """A call of the registered function that refers to a value; its id."""
    call = SubmitCall(
        call=new_call_id(),
        app="shop",
        function="f",
        version=made.version,
        digest=sha(b"args"),
        payload_bytes=4,
        refs=[ref],
    )
    reply = await made.ask(
        ApiVerb.SUBMIT, SubmitRequest(calls=[call], inbox=made.dev.inbox, fresh=True), SubmitReply, (b"args",)
    )
    assert isinstance(reply, SubmitReply) and reply.results[0].error is None, reply
    return call.call


def test_a_car_reads_what_its_lease_names_and_nothing_else(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        for data in (PACKAGE, *PIECES, b"value", b"of another call"):
            await made.blobs.put_whole("default", sha(data), data)
        await made.register()
        manifest = await made.registry.lookup("default", "shop", "f", made.version)
        manifest = with_weights(with_packages(manifest, package()), *PIECES)
        (made.version,), missing = await made.registry.register("default", [manifest])
        assert missing == []
        car = await made.car("car-1")
        await submit_with(made, BlobRef(digest=sha(b"value"), size_bytes=5))
        grant, _, _ = await car.granted.receive()
        assert [one.digest for one in grant.refs] == [sha(b"value")]
        assert [one.digest for one in grant.program.packages] == [sha(PACKAGE)]
        for data, allowed in (
            (PACKAGE, True), (PIECES[0], True), (PIECES[1], True), (b"value", True), (b"of another call", False)
        ):  # fmt: skip
            reply = await car.ask(CarVerb.BLOB_GET, BlobGet(digest=sha(data), lease=grant.lease), BlobGetReply)
            assert (reply.error is None) == allowed, data
        await car.leave()
        other = await made.car("car-2")
        again, _, _ = await other.granted.receive()
        assert again.refs == grant.refs, "the next car may have it, too"
        reply = await other.ask(CarVerb.BLOB_GET, BlobGet(digest=sha(b"value"), lease=grant.lease), BlobGetReply)
        assert reply.error is not None, "by its own lease alone"

    with_plane(tmp_path, test)


def test_a_value_that_expires_while_the_call_waits_ends_it_in_one_sentence(tmp_path: Path) -> None:
    async def test(made: Plane) -> None:
        await made.blobs.put_whole("default", sha(b"value"), b"value")
        await made.register()
        call = await submit_with(made, BlobRef(digest=sha(b"value"), size_bytes=5))
        await expire(made, sha(b"value"))
        await made.car("car-1")
        await made.until(lambda: bool(made.outcomes))
        record, _ = made.outcomes[0]
        assert (record.call, record.state) == (call, CallState.FAILED)
        assert record.error is not None and record.error.code == "result_expired"
        assert "fleet.put" in record.error.message and "expired while the call waited" in record.error.message

    with_plane(tmp_path, test)
