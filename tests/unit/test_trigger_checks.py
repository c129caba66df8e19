"""Triggers that can't work are refused when they are deployed, by app, function and field."""

from __future__ import annotations

import math

import pytest

from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.messages import (
    AtTrigger,
    CronTrigger,
    EventBatch,
    HttpTrigger,
    Manifest,
    Program,
    RateLimit,
    SubjectTrigger,
)
from fleet.protocol.messages.triggers import EveryTrigger, Trigger
from fnplatform.registry import check_manifest
from fnplatform.triggers.check import check_routes


def manifest(*triggers: Trigger, function: str = "hot", **more: object) -> Manifest:
    program = Program(bundle="a" * 64, bundle_bytes=10, module="m", qualname=function, **more.pop("program", {}))  # type: ignore[arg-type]
    fields = {"app": "sensors", "function": function, "display_name": function, "program": program, **more}
    return Manifest.model_validate(fields).model_copy(update={"triggers": list(triggers)})


def subject(pattern: str = "a.b", **more: object) -> SubjectTrigger:
    return SubjectTrigger.model_validate({"subject": pattern, **more})


def http(path: str, method: str = "POST") -> HttpTrigger:
    return HttpTrigger.model_validate({"method": method, "path": path})


@pytest.mark.parametrize(
    "trigger",
    [
        CronTrigger(expression="*/5 * * * *", timezone="Europe/Berlin"),
        CronTrigger(expression="@daily"),
        EveryTrigger(every_s=30.0),
        AtTrigger(at_unix_s=1_900_000_000.5),
        subject(
            "sensors.*.temperature", filter="data.t > 30", key="data.user", rate_limit=RateLimit(count=1, per_s=60.0)
        ),
        subject(">", debounce_s=5.0, key="subject"),
        subject("*", batch=EventBatch(max_size=10, max_wait_s=1.0), key="data.user"),
        http("/"),
        http("/resize/{size}/"),
        http("/files/{name}/{rest:path}", "GET"),
        http("/a%20b/c.d-e_~"),
    ],
)
def test_what_can_work_is_taken(trigger: Trigger) -> None:
    check_manifest(manifest(trigger))


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        (CronTrigger(expression="61 * * * *"), "minute"),
        (CronTrigger(expression="* * *"), "3 fields"),
        (CronTrigger(expression="@daily", timezone="Mars/Olympus"), "timezone"),
        (EveryTrigger.model_construct(every_s=math.nan), "period"),
        (AtTrigger(at_unix_s=math.inf), "is no time"),
        (AtTrigger(at_unix_s=-5.0), "is no time"),
        (subject("a..b"), "subject has an empty name"),
        (subject(""), "subject has an empty name"),
        (subject("a.b*"), r'"b\*" in its subject'),
        (subject("a.>.b"), '">" in its subject'),
        (subject("a.b c"), '"b c" in its subject'),
        (subject("a." + "b" * 65), "in its subject is no name"),
        (subject(".".join("a" * 17)), "subject has 17 names, 16 are allowed"),
        (subject(filter="data.t >"), 'filter="data.t >" is no CEL expression: at character 9'),
        (subject(filter="tmp > 3"), 'filter="tmp > 3" at character 1: no event has tmp'),
        (subject(key="data.list.map(x, x)"), r'key="data.list.map\(x, x\)" at character 11: map'),
        (subject(debounce_s=1.0, batch=EventBatch()), "debounce= and batch="),
        (subject(rate_limit=RateLimit.model_construct(count=1, per_s=math.nan)), "numbers of seconds"),
        (http("resize"), 'path must begin with "/"'),
        (http("/a//b"), 'segment ""'),
        (http("/a/../b"), r'segment "\.\."'),
        (http("/{size}/{size}"), "{size} twice"),
        (http("/{rest:path}/x"), "must come last"),
        (http("/{size:int}"), "no parameter"),
        (http("/a{size}"), "no parameter"),
        (http("/{1}"), "no parameter"),
        (http("/a?b"), "characters that a URL has not"),
        (http("/a%zz"), "characters that a URL has not"),
        (http("/ä"), "characters that a URL has not"),
    ],
)
def test_what_cannot_work_is_refused_by_its_field(trigger: Trigger, why: str) -> None:
    with pytest.raises(InvalidOption, match=why) as error:
        check_manifest(manifest(trigger))
    assert error.value.message.startswith("sensors.hot: fleet.")
    assert len(str(error.value)) < 1000


def test_functions_that_no_event_can_start() -> None:
    with pytest.raises(InvalidOption, match=r'sensors.hot: on= is not allowed with runtime="jax"'):
        check_manifest(manifest(subject(), program={"runtime": "jax"}))
    with pytest.raises(InvalidOption, match=r"sensors.hot: on= is not allowed for a generator"):
        check_manifest(manifest(subject(), yields=True))


def test_the_same_trigger_twice() -> None:
    with pytest.raises(InvalidOption, match=r'sensors.hot: on= names fleet.subject\("a.b"\) twice'):
        check_manifest(manifest(subject(), subject()))
    check_manifest(manifest(subject(), subject(filter="data.x > 1")))
    assert limits.TRIGGERS_MAX >= 2


@pytest.mark.parametrize("path", ["/x/{b}", "/x/{a}"])
def test_one_request_is_for_one_function_of_an_app(path: str) -> None:
    first, second = manifest(http("/x/{a}"), function="one"), manifest(http(path), function="two")
    with pytest.raises(InvalidOption, match=r"sensors.two: path='/x/{.}' .* is that of sensors.one as well"):
        check_routes([first, second])
    check_routes([first, manifest(http(path, "GET"), function="two")])
    check_routes([first, manifest(http("/x/a"), http("/x/{rest:path}"), function="two")])
