"""Triggers: what ``on=`` takes, what it refuses, and what stands in the manifest."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

import fleet
from fleet import _triggers
from fleet._register import describe
from fleet.protocol import frames, messages
from fleet.protocol.errors import DeployError, InvalidOption
from fleet.protocol.options import Options

EACH = [
    (fleet.cron("*/5  * * * * "), messages.CronTrigger(expression="*/5 * * * *", timezone="UTC", missed="one")),
    (
        fleet.cron("@daily", timezone="Europe/Berlin", missed="all"),
        messages.CronTrigger(expression="@daily", timezone="Europe/Berlin", missed="all"),
    ),
    (fleet.every("30s"), messages.EveryTrigger(every_s=30)),
    (fleet.every(2, missed="skip"), messages.EveryTrigger(every_s=2, missed="skip")),
    (fleet.at(datetime(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))), messages.AtTrigger(at_unix_s=1798761600)),
    (fleet.subject("sensors.*.t"), messages.SubjectTrigger(subject="sensors.*.t")),
    (
        fleet.subject(
            "a.>", filter="data.t > 3", batch=fleet.EventBatch(max_size=5, max_wait="250ms"), debounce="5s", key="data.u",
            rate_limit="100/m",
        ),
        messages.SubjectTrigger(
            subject="a.>", filter="data.t > 3", batch=messages.EventBatch(max_size=5, max_wait_s=0.25), debounce_s=5,
            key="data.u", rate_limit=messages.RateLimit(count=100, per_s=60),
        ),
    ),
    (fleet.http("POST", "/resize/{size}"), messages.HttpTrigger(method="POST", path="/resize/{size}")),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), EACH)
def test_each_trigger_stands_in_the_manifest(given: Any, expected: messages.Trigger) -> None:
    function = fleet.function(on=[given])(_handle)
    manifest, _, _ = describe(function, "app")
    assert manifest.triggers == [expected]
    again = messages.Manifest.model_validate_json(manifest.model_dump_json())
    assert again.triggers == [expected]
    header, _ = frames.unpack(frames.pack(manifest, []), messages.Manifest)
    assert header.triggers == [expected], "frames leave out what is at its default"


def _handle(event: fleet.Event) -> Any:
    return event.data


@pytest.mark.parametrize(
    ("rate", "count", "per_s"), [("10/s", 10, 1), ("100/m", 100, 60), ("5/h", 5, 3600), (" 1 / d", 1, 86400)]
)
def test_rates(rate: str, count: int, per_s: float) -> None:
    assert fleet.subject("a", rate_limit=rate).rate == (count, per_s)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fleet.cron(""), "expression of fleet.cron"),
        (lambda: fleet.cron(5), "expression of fleet.cron"),
        (lambda: fleet.cron("* * * * *", timezone=None), "timezone"),
        (lambda: fleet.cron("* * * * *", missed="most"), "missed='most' is not allowed: there are \"skip\""),
        (lambda: fleet.cron("1," * 600 + "1 * * * *"), "1209 characters: allowed are 1000"),
        (lambda: fleet.every("soon"), "every='soon' is no duration"),
        (lambda: fleet.every("10ms"), "every='10ms' is out of range: allowed is from 1 s"),
        (lambda: fleet.every("1s", missed=["all"]), "missed="),
        (lambda: fleet.at(datetime(2027, 1, 1)), "has no time zone"),
        (lambda: fleet.at("2027-01-01"), "takes a datetime"),
        (lambda: fleet.subject(""), "subject"),
        (lambda: fleet.subject("a..b"), "empty word"),
        (lambda: fleet.subject("a b"), "spaces"),
        (lambda: fleet.subject("a.x*"), "whole word"),
        (lambda: fleet.subject("a.>.b"), "whole word"),
        (lambda: fleet.subject("x" * 256), "256 characters"),
        (lambda: fleet.subject("a", filter=""), "filter"),
        (lambda: fleet.subject("a", key=lambda event: event), "key"),
        (lambda: fleet.subject("a", batch=100), "EventBatch"),
        (lambda: fleet.EventBatch(max_size=0), "max_size=0"),
        (lambda: fleet.EventBatch(max_size=10_001), "1 to 10000"),
        (lambda: fleet.EventBatch(max_wait="2d"), "max_wait="),
        (lambda: fleet.subject("a", debounce=0), "debounce=0"),
        (lambda: fleet.subject("a", rate_limit="100"), "rate_limit='100' is no rate"),
        (lambda: fleet.subject("a", rate_limit="0/s"), "rate_limit="),
        (lambda: fleet.subject("a", rate_limit="1/w"), "rate_limit="),
        (lambda: fleet.subject("a", rate_limit=5), "rate_limit="),
        (lambda: fleet.http("FETCH", "/a"), "there are GET, HEAD"),
        (lambda: fleet.http("GET", "a"), "start with /"),
        (lambda: fleet.http("GET", "/a?b"), "start with /"),
        (lambda: fleet.http("GET", "/a b"), "start with /"),
        (lambda: Options().changed({"on": fleet.every("1s")}), "is no list"),
        (lambda: Options().changed({"on": "* * * * *"}), "is no list"),
        (lambda: Options().changed({"on": ["* * * * *"]}), "is no trigger"),
        (lambda: Options().changed({"on": [fleet.every("1s"), fleet.every(1)]}), "every 1 s twice"),
        (lambda: Options().changed({"on": [fleet.every(n + 1) for n in range(33)]}), "allowed are 32"),
        (lambda: Options().changed({"on": [fleet.every(1)], "runtime": "jax"}), "takes arrays, not events"),
    ],
)
def test_what_is_wrong_shows_on_its_line(make: Any, says: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        make()
    assert says in f"{caught.value.message} {caught.value.hint}"


def test_methods_in_any_case() -> None:
    method: Any = "post"
    assert fleet.http(method, "/a").method == "POST"


def test_with_options_changes_the_triggers() -> None:
    function = fleet.function(on=[fleet.every("1s")])(_handle)
    assert function.with_options(on=[]).options.on == ()
    assert function.with_options(on=[fleet.every("2s")]).options.on == (fleet.every(2),)
    assert function.with_options(timeout=3).options.on == (fleet.every(1),)


def nothing() -> str:
    return "done"


def by_name_alone(*, loud: bool = False, **_more: int) -> str:
    return "DONE" if loud else "done"


def any_number(*events: fleet.Event) -> int:
    return len(events)


def with_default(event: fleet.Event | None = None, loud: bool = False) -> str:
    return f"{event} {loud}"


async def later(event: fleet.Event) -> str:
    return event.id


@pytest.mark.parametrize(
    ("raw", "takes"),
    [
        (nothing, False),
        (by_name_alone, False),
        (any_number, True),
        (with_default, True),
        (later, True),
        (_handle, True),
    ],
)
def test_who_gets_the_event(raw: Any, takes: bool) -> None:
    function = fleet.function(on=[fleet.every("1s")])(raw)
    _triggers.check_startable(function)
    assert describe(function, "app")[0].takes_event is takes


def needs_two(event: fleet.Event, other: int) -> None:
    raise AssertionError(event, other)


def needs_a_name(event: fleet.Event, *, other: int) -> None:
    raise AssertionError(event, other)


def needs_only_a_name(*, other: int) -> None:
    raise AssertionError(other)


def yields(event: fleet.Event) -> Any:
    yield event


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (needs_two, "can't be called with one event: .*'other'"),
        (needs_a_name, "'other'"),
        (needs_only_a_name, "'other'"),
        (yields, "is a generator function"),
    ],
)
def test_functions_that_an_event_cant_start(raw: Any, says: str) -> None:
    function = fleet.function(on=[fleet.every("1s")])(raw)
    with pytest.raises(DeployError, match=says):
        _triggers.check_startable(function)
    _triggers.check_startable(function.with_options(on=()))


def test_two_functions_for_one_route() -> None:
    first = fleet.function(on=[fleet.http("GET", "/a/{x}/{rest:path}")])(_handle)
    for path, method in (("/a/{y}/{z:path}", "POST"), ("/a/{y}/{z}", "GET"), ("/a/b/{z:path}", "GET")):
        _triggers.check_routes([first, first.with_options(on=[fleet.http(cast(Any, method), path)])])
    second = fleet.function(on=[fleet.http("GET", "/a/{y}/{z:path}")])(with_default)
    with pytest.raises(DeployError, match=r"_handle and with_default both answer GET /a/\{y\}/\{z:path\}"):
        _triggers.check_routes([first, second])


def test_a_function_is_tried_with_an_event_made_by_hand() -> None:
    function = fleet.function(on=[fleet.subject("sensors.*.t")])(_handle)
    assert function(fleet.Event("sensors.7.t", {"t": 31})) == {"t": 31}
    assert function.local(fleet.Event("sensors.7.t", b"raw")) == b"raw"


def test_in_words() -> None:
    words = [_triggers.in_words(expected) for _, expected in EACH]
    assert words == [
        "cron */5 * * * * UTC",
        "cron @daily Europe/Berlin missed=all",
        "every 30 s",
        "every 2 s missed=skip",
        "at 2027-01-01T00:00:00Z",
        "subject sensors.*.t",
        "subject a.> filter=data.t > 3 batch=5/250 ms debounce=5 s key=data.u rate_limit=100/1 min",
        "http POST /resize/{size}",
    ]
