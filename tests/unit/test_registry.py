"""The registry's pure parts: versions, records of apps, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption, PayloadTooLarge, QueueFull, Refused, VersionMismatch
from fleet.protocol.messages import AppRecord, Manifest, Program, Requires, Retries
from fnplatform.blobs import part_bytes, parts_of
from fnplatform.frontdoor.protocols import check_protocol
from fnplatform.frontdoor.share import QueueShare
from fnplatform.provision import parse_version, streams
from fnplatform.registry import (
    APP_VERSIONS_MAX,
    check_manifest,
    deployed,
    live_version,
    named,
    rolled_back,
    version_of,
)


def manifest(**more: object) -> Manifest:
    program = Program(bundle="a" * 64, bundle_bytes=10, module="shop", qualname="add")
    fields = {"app": "shop", "function": "add", "display_name": "add", "program": program, **more}
    return Manifest.model_validate(fields)


def test_a_version_says_everything_that_matters_and_stays_the_same() -> None:
    base = version_of(manifest())
    # A golden value: if this changes, every deployed function gets a new version by an upgrade of the platform.
    assert base == "5e69b7692dfc9113"
    assert version_of(manifest(retries=Retries())) == base
    assert version_of(Manifest.model_validate_json(manifest().model_dump_json())) == base
    changed = [manifest(retries=Retries(max_attempts=2)), manifest(max_concurrency=1), manifest(doc="x")]
    assert len({base, *map(version_of, changed)}) == 4


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"requires": Requires(min_stay_s=1.0)}, InvalidOption, "min_stay"),
        ({"result_ttl_s": 1.0}, InvalidOption, "result_ttl"),
        ({"doc": "x" * limits.MANIFEST_BYTES_MAX}, PayloadTooLarge, str(limits.MANIFEST_BYTES_MAX)),
    ],
)
def test_what_the_platform_cannot_run_is_refused(fields: dict[str, object], error: type[Exception], word: str) -> None:
    check_manifest(manifest())
    with pytest.raises(error, match=word):
        check_manifest(manifest(**fields))


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes": limits.MEMORY_BYTES_MIN - 1},
        {"memory_bytes": limits.MEMORY_BYTES_MAX + 1},
        {"timeout_s": 0.0},
        {"timeout_s": limits.TIMEOUT_S_MAX + 1},
        {"bundle_bytes": limits.BUNDLE_BYTES_MAX + 1},
    ],
)
def test_limits_of_programs(change: dict[str, object]) -> None:
    program = manifest().program.model_copy(update=change)
    with pytest.raises((InvalidOption, PayloadTooLarge)):
        check_manifest(manifest(program=program))


@given(st.lists(st.one_of(st.sampled_from(["a", "b", "c"]), st.none(), st.integers(0, 8)), max_size=120))
def test_any_sequence_of_deploys_and_rollbacks_keeps_a_sound_record(steps: list[str | int | None]) -> None:
    record: AppRecord | None = None
    numbers: set[int] = set()
    for step in steps:
        if isinstance(step, str):
            record, unchanged = deployed(record, "shop", {"add": step * 16}, 1.0)
            assert live_version(record).functions == {"add": step * 16}
            assert unchanged == (record.live in numbers)
            numbers.add(record.live)
        elif record is not None:
            try:
                record = rolled_back(record, step)
            except Refused:
                continue
            assert step is None or record.live == step
        if record is not None:
            known = [version.number for version in record.versions]
            assert known == sorted(set(known)) and len(known) <= APP_VERSIONS_MAX
            assert live_version(record).number == record.live
            assert named(record) >= set(live_version(record).functions.items())


def test_history_forgets_the_oldest_but_never_what_is_live() -> None:
    record: AppRecord | None = None
    for number in range(APP_VERSIONS_MAX + 10):
        record, _ = deployed(record, "shop", {"add": f"{number:016x}"}, 1.0)
    assert record is not None and len(record.versions) == APP_VERSIONS_MAX
    assert record.live == APP_VERSIONS_MAX + 10
    with pytest.raises(Refused, match="no version 1"):
        rolled_back(record, 1)


@given(st.integers(0, limits.PAYLOAD_BYTES_MAX))
def test_parts_of_a_blob_add_up(size_bytes: int) -> None:
    sizes = [part_bytes(size_bytes, part) for part in range(parts_of(size_bytes))]
    assert sum(sizes) == size_bytes and all(0 <= size <= limits.BLOB_PART_BYTES for size in sizes)
    for part in (-1, len(sizes)):
        with pytest.raises(Refused):
            part_bytes(size_bytes, part)


def test_a_share_is_refused_beyond_its_size_and_given_back() -> None:
    share = QueueShare(calls_max=10)
    share.take("a", 10)
    share.take("b", 10)
    with pytest.raises(QueueFull, match="10"):
        share.take("a", 1)
    share.give_back("a", 1)
    share.take("a", 1)
    before = share.since("a")
    share.give_back("a", 3)
    share.take("a", 3)
    share.counted("a", 2, before)  # ten were taken before the count, two of them still wait
    share.take("a", 8)
    with pytest.raises(QueueFull):
        share.take("a", 1)
    share.counted("a", 0, share.since("a"))
    assert "a" not in share.tenants


def test_protocol_versions_say_what_to_upgrade() -> None:
    check_protocol(limits.PROTOCOL)
    with pytest.raises(VersionMismatch, match="upgrade the control plane"):
        check_protocol(limits.PROTOCOL + 1)
    with pytest.raises(VersionMismatch, match="upgrade your client"):
        check_protocol(limits.PROTOCOL_MIN - 1)


def test_server_versions_are_compared_as_numbers() -> None:
    assert parse_version("2.15.1-beta.2") == (2, 15, 1)
    assert parse_version("2.9") < parse_version("2.14.3") < parse_version("2.15.0")
    assert parse_version("") == (0, 0, 0)


def test_every_stream_is_bounded() -> None:
    for config in streams():
        assert config["max_bytes"] > 0, config["name"]
