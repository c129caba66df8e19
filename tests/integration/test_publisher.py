"""``fleet.publish`` on its way: requests are shared, lost answers repeated, an error is that of its event alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from fleet._publish import BATCH_BYTES_MAX, Publication, Publisher, head_of
from fleet.protocol.errors import FleetError, FleetUnavailable, InvalidOption, PayloadTooLarge
from fleet.protocol.messages import EventHead
from fleet.transport import Bus
from tests.integration.frontdoor_rig import Rig, with_rig
from tests.integration.test_events_intake import Answering, stored


def publisher_on(bus: Bus) -> Publisher:
    return Publisher(bus, "default", lambda call, *args: call(*args), bus._loop.call_later)


async def published(publisher: Publisher, *publications: Publication) -> list[FleetError | str]:
    """What became of each: its id, or the error."""
    got: list[FleetError | str] = []
    for one in publications:
        publisher.hand_over(one)
    for one in publications:
        done = anyio.Event()
        one.arm(done.set)
        await done.wait()
        try:
            got.append(one.outcome())
        except FleetError as error:
            got.append(error)
    return got


def event(name: str, data: bytes = b"1", subject: str = "a.b") -> Publication:
    return Publication(EventHead(id=name, source="/s", subject=subject), data)


def test_events_share_requests(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        publisher = publisher_on(rig.dev)
        asked: list[int] = []
        ask = rig.dev.ask

        def counting(*args: Any, **more: Any) -> None:
            asked.append(1)
            ask(*args, **more)

        rig.dev.ask = counting  # type: ignore[method-assign]
        names = [str(number) for number in range(1500)]
        assert await published(publisher, *map(event, names)) == names
        assert len(asked) <= 10, "a few at once, the rest in large requests"
        large = [event(f"large-{number}", b"x" * (1 << 20)) for number in range(BATCH_BYTES_MAX // (1 << 20) + 2)]
        assert await published(publisher, *large) == [one.head.id for one in large]
        assert len(await rig.js.subjects("EVENTS", "evt.>")) == len(names) + len(large)

    with_rig(tmp_path, test)


def test_a_lost_answer_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        publisher = publisher_on(rig.dev)
        assert await published(publisher, event("first")) == ["first"]
        store = rig.intake._store
        lost = Answering(FleetUnavailable("no answer in time"), store)
        rig.intake._store = lost  # type: ignore[assignment]
        later: list[Callable[[], None]] = []

        def mended(_delay_s: float, call: Callable[..., None], *args: Any) -> None:
            rig.intake._store = store
            later.append(lambda: call(*args))
            call(*args)

        publisher._later = mended
        assert await published(publisher, event("second"), event("third")) == ["second", "third"]
        assert len(later) >= 1 and rig.intake.duplicates == 2, "they had been stored the first time"
        assert [one.head.id for one, _ in await stored(rig)] == ["first", "second", "third"]

    with_rig(tmp_path, test)


def test_an_error_is_that_of_its_event_alone(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        publisher = publisher_on(rig.dev)
        events = [event(str(number), subject="no subject" if number == 7 else "a") for number in range(20)]
        got = await published(publisher, *events)
        assert [one for one in got if isinstance(one, str)] == [str(number) for number in range(20) if number != 7]
        assert isinstance(got[7], FleetError) and "no subject" in got[7].message

    with_rig(tmp_path, test)


def test_nobody_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet._publish.CONNECT_S", 0.0)

    async def test(rig: Rig) -> None:
        bus = await Bus.connect(rig.broker.url, kind="dev", name="default")
        await bus.close()
        (error,) = await published(publisher_on(bus), event("1"))
        assert isinstance(error, FleetUnavailable) and "broke" in error.message

    with_rig(tmp_path, test)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("subject", {"subject": "a b"}),
        ("subject", {"subject": "a.>"}),
        ("subject", {"subject": 5}),
        ("id is empty", {"id": ""}),
        ("source", {"source": "/fleet/x"}),
        ("type", {"type": ""}),
        ("RFC 3339", {"time": "yesterday"}),
        ("is no time", {"time": 5}),
        ("time zone", {"time": datetime(2026, 1, 1)}),
        ("as JSON", {"data": {1, 2}}),
        ("as JSON", {"data": float}),
        ("as JSON", {"data": {"celsius": math.nan}}),
        ("UTF-8", {"data": "\ud800"}),
        ("datacontenttype", {"datacontenttype": "a\nb"}),
    ],
)
def test_what_can_not_be_published(words: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=words) as caught:
        head_of("default", **{"subject": "a.b", "data": 1, **options})
    assert caught.value.hint


def test_what_is_published() -> None:
    with pytest.raises(PayloadTooLarge):
        head_of("default", "a", b"x" * ((1 << 20) + 1))
    time = datetime(2026, 1, 1, 2, tzinfo=UTC)
    head, data = head_of("default", "a.b", {"ü": 1}, id="i", time=time, datacontenttype="application/x+json")
    assert data == '{"ü":1}'.encode()
    assert head == EventHead(
        id="i",
        source="/client/default",
        subject="a.b",
        time="2026-01-01T02:00:00Z",
        datacontenttype="application/x+json",
    )
    first, second = (head_of("default", "a", None)[0] for _ in range(2))
    assert first.id != second.id and first.time is not None and head_of("default", "a", None)[1] == b""
