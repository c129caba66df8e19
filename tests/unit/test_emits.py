"""Events in results, as the control plane reads them: what the sandbox writes, and nothing else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fleet
from fleet._event import emits_of, pack_emits
from fleet._results import decode_item
from fleet.protocol import frames, limits
from fleet.protocol.codec import encode
from fleet.protocol.errors import InvalidOption, PayloadTooLarge, ProtocolError
from fleet.protocol.messages import OutboxEntry, OutcomeReport, RunOutcome, RunStatus
from fnplatform.dispatcher import events, wire
from fnplatform.dispatcher.events import Commit
from fnplatform.emits import PACKED_BYTES_MAX, Emitted, packed_in, unpack_emits
from tests.unit.core_rig import Rig, manifest, retries, state

ONE = {"subject": "a.b", "type": "t", "data": "eA=="}


def result(*emits: fleet.Emit, value: Any = None) -> bytes:
    packed = pack_emits(emits)
    return b"\x03" + len(packed).to_bytes(4, "little") + packed + encode(value)


def packed(*rows: Any) -> bytes:
    return json.dumps(rows).encode()


subjects = st.lists(st.text("aZ0_-", min_size=1, max_size=9), min_size=1, max_size=16).map(".".join)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=50)


@given(
    st.lists(st.builds(fleet.Emit, subjects, st.binary(max_size=99), texts, st.none() | texts), min_size=1, max_size=9)
)
@settings(max_examples=100, deadline=None)
def test_what_the_sandbox_writes_is_read(emits: list[fleet.Emit]) -> None:
    found = unpack_emits(packed_in(result(*emits)))
    assert found == [Emitted(one.subject, one.type, one.body, one.datacontenttype) for one in emits]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b"[1]", b'["a"]', packed({}), packed({**ONE, "hops": "0"}),
        packed({**ONE, "data": 1}), packed({**ONE, "data": "a"}), packed({**ONE, "data": "e A="}), packed({**ONE, "data": "ø"}),
        packed({**ONE, "subject": ""}), packed({**ONE, "subject": "a.*"}), packed({**ONE, "subject": "a.>"}),
        packed({**ONE, "subject": ".a"}), packed({**ONE, "subject": "a b"}), packed({**ONE, "subject": ".".join("a" * 17)}),
        packed({**ONE, "subject": "a" * 65}), packed({**ONE, "subject": None}), packed({**ONE, "type": ""}),
        packed({**ONE, "type": "a\r\nNats-Rollup: all"}), packed({**ONE, "type": "a" * 1025}),
        packed({**ONE, "datacontenttype": None}), packed({**ONE, "datacontenttype": "\x00"}), packed(*[ONE] * 257),
        packed({**ONE, "data": base64.b64encode(bytes(limits.EMITS_BYTES_MAX + 1)).decode()}),
        b" " * (PACKED_BYTES_MAX + 1), b'[{"subject": 1' + b"0" * 10_000 + b"}]",
    ],
)  # fmt: skip
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_emits(data)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_are_more_than_refused(data: bytes) -> None:
    for read in (unpack_emits, packed_in, lambda data: unpack_emits(packed_in(b"\x03" + data))):
        try:
            read(data)
        except ProtocolError:
            pass


def test_a_caller_gets_the_value_behind_the_events() -> None:
    one = fleet.emit("a", 1)
    back = decode_item(result(one, value=[one]))
    assert [type(each) for each in back] == [fleet.Emit] and back[0].subject == "a"
    for cut in (b"\x03", b"\x03\x01", b"\x03\xff\xff\xff\xff", result(one)[:-1]):
        with pytest.raises(ProtocolError):
            decode_item(cut)


# --- what counts as events -------------------------------------------------------------------------------------------


def test_a_list_of_nothing_but_events_is_published() -> None:
    one = fleet.emit("a")
    assert emits_of(one) == emits_of([one]) == emits_of((one,)) == [one]
    for other in (None, [], (), "a", [1, 2], {"a": one}, [[one]], [1] * 1000):
        assert emits_of(other) == []
    for mixed in ([one, 1], (None, one), [1] * 100 + [one], [one] + [1] * 1000):
        with pytest.raises(InvalidOption, match="mixes"):
            emits_of(mixed)


def test_limits_of_what_a_call_emits() -> None:
    assert unpack_emits(pack_emits([fleet.emit("a", bytes(limits.EMITS_BYTES_MAX - 100))]))
    largest = result(*[fleet.emit("a." * 15 + "a", bytes(2900), type='"' * 1024)] * 256)
    assert len(largest) < limits.INLINE_RESULT_BYTES_MAX - limits.EMITS_BYTES_MAX, "with the value behind it"
    assert len(unpack_emits(packed_in(largest))) == 256
    with pytest.raises(PayloadTooLarge, match="257 events"):
        pack_emits([fleet.emit("a")] * 257)
    with pytest.raises(PayloadTooLarge, match="bytes of events"):
        pack_emits([fleet.emit("a", bytes(limits.EMITS_BYTES_MAX))])
    for wrong in ("", "a b", "a..b", "a.*", "ø", ">", "a" * 65, ".".join("abcdefghijklmnopq"), 7):
        with pytest.raises(InvalidOption, match="not allowed for an event"):
            fleet.emit(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="type="):
        fleet.emit("a", type="line\nbreak")


@pytest.mark.parametrize(
    "headers", [{"a b": "c"}, {"a": "b\r\nSet-Cookie: x"}, {"": "a"}, {"a": "\x00"}, {"ø": "a"}, {"a": "b" * 9000}]
)
def test_no_header_of_a_response_smuggles_in_another(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidOption, match="header"):
        fleet.Response("x", headers=headers)


# --- reports ---------------------------------------------------------------------------------------------------------


def told(part: bytes, **run: Any) -> events.Result:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a"))
    (lease,) = rig.accept()
    outcome = RunOutcome(lease=lease, **{"status": RunStatus.OK, **run})
    (found,) = wire.results_of(OutcomeReport(outcomes=[outcome]), [memoryview(part)])
    return found


def test_a_report_says_whether_it_emits() -> None:
    good, value, raised = result(fleet.emit("a")), b"\x00" + encode(1), b"\x01" + encode(1)
    assert (told(good).emits, told(good).status_byte, told(good).malformed) == (True, 3, False)
    assert (told(value).emits, told(raised).emits) == (False, False)
    items = told(frames.pack_items([value, good, raised]), done=[(3, 5)])
    assert (items.emits, items.failed, items.malformed) == (True, [5], False)
    assert not told(frames.pack_items([value, raised]), done=[(0, 1)]).emits


@pytest.mark.parametrize(
    "part", [b"\x03", b"\x03\x05\x00\x00\x00[]", b"\x03\x02\x00\x00\x00[]\xc0", b"\x04", result(fleet.emit("a"))[:-1]]
)
def test_a_forged_result_is_malformed(part: bytes) -> None:
    assert told(part).malformed
    assert told(frames.pack_items([b"\x00\xc0", part]), done=[(0, 1)]).malformed


def test_an_item_that_claims_to_be_ended_by_the_platform_is_malformed() -> None:
    assert told(frames.pack_items([b"\x00\xc0", b"\x02{}"]), done=[(0, 1)]).malformed


def test_the_entry_holds_what_is_stored() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a", hops=4))
    (lease,) = rig.accept()
    part = result(fleet.emit("a", "x"), fleet.emit("b"))
    rig.tell(
        events.Reported(
            lease.car, [events.Result(RunOutcome(lease=lease, status=RunStatus.OK), part, 3, emits=True)], None
        )
    )
    (op,) = rig.take(Commit)
    assert op.emits
    found = wire.outbox_entry(op, wire.subject_of(op), 5.0)
    assert found is not None
    entry, parts = frames.unpack(found[1], OutboxEntry)
    assert found[0] == "emt.default.app.f.a.0"
    assert entry == OutboxEntry(
        tenant="default", app="app", function="f", call="a", outcome="out.default.app.f.a", hops=5, at_unix_s=5.0
    )  # fmt: skip
    assert [one.subject for one in unpack_emits(parts[0])] == ["a", "b"]


def test_items_that_are_stored_emit_and_others_do_not() -> None:
    rig = Rig()
    rig.car("car-1")
    rig.submit(state("a", items=4), of=manifest(retries=retries(2, 5.0)))
    (lease,) = rig.accept()
    good, raised = result(fleet.emit("a", "x")), b"\x01" + encode(1)
    run = RunOutcome(lease=lease, status=RunStatus.PARTIAL, done=[(0, 2)])
    part = frames.pack_items([good, raised, b"\x00\xc0"])
    rig.tell(events.Reported(lease.car, [events.Result(run, part, failed=[1], emits=True)], None))
    (op,) = rig.take(Commit)
    found = wire.outbox_entry(op, wire.subject_of(op), 5.0)
    assert found is not None
    entry, parts = frames.unpack(found[1], OutboxEntry)
    assert (found[0], entry.items, len(parts)) == ("emt.default.app.f.a.0", [0], 1)
    rig.tell(events.Stored(op, 9))
    run = RunOutcome(lease=lease, status=RunStatus.PARTIAL, done=[(0, 0), (2, 3)])
    part = frames.pack_items([good, b"\x00\xc0", b"\x00\xc0"])
    rig.tell(events.Reported(lease.car, [events.Result(run, part, emits=True)], None))
    (op,) = rig.take(Commit)
    assert wire.outbox_entry(op, wire.subject_of(op), 5.0) is None, "item 0 was stored before"
    assert op.record.indices == [(3, 3)]
