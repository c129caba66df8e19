"""The examples of events: what their functions compute here, and what they do once something happens on a fleet."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import fleet
from examples.nightly import report
from examples.sensors import meters, replay
from examples.sessions.score import Session
from examples.webhook import png, thumbnails
from fleet.protocol import limits
from fleet.protocol.messages import CallsRequest, DeleteReply, DeleteRequest, LogsReply, LogsRequest, StatusReply
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalFleet

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 60.0
DAY = date(2019, 9, 3)
"""A busy one: 114 cars left."""


def drawn(width: int, height: int, channels: int, seed: int = 1) -> np.ndarray:
    """A picture with soft colours and hard edges."""
    y, x = np.mgrid[0:height, 0:width]
    layers = [(x * (3 + n) + y * (5 - n) + 40 * (x // 7 % 2)) % 256 for n in range(channels)]
    noise = np.random.default_rng(seed).integers(0, 20, (height, width, channels))
    return ((np.stack(layers, axis=2) + noise) % 256).astype(np.uint8)


def encoded(pixels: np.ndarray, filters: list[int]) -> bytes:
    """A PNG file whose rows use ``filters`` in turn, as real encoders choose them."""
    height, width, channels = pixels.shape
    out, above = bytearray(), np.zeros(width * channels, int)
    for n in range(height):
        row = pixels[n].reshape(-1).astype(int)
        left = np.concatenate([np.zeros(channels, int), row[:-channels]])
        corner = np.concatenate([np.zeros(channels, int), above[:-channels]])
        guess = left + above - corner
        off = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
        paeth = np.choose(off.argmin(axis=0), [left, above, corner])
        kind = filters[n % len(filters)]
        out += bytes([kind]) + bytes(((row - [0 * row, left, above, (left + above) // 2, paeth][kind]) % 256).tolist())
        above = row
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 2: 4, 4: 6}[channels], 0, 0, 0)
    return png.SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(out))), (b"IEND", b""))
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_read_as_they_were_drawn(channels: int) -> None:
    pixels = drawn(23, 17, channels)
    picture = png.read(encoded(pixels, [0, 1, 2, 3, 4, 4, 3]))
    assert np.array_equal(np.frombuffer(b"".join(picture.rows), np.uint8).reshape(pixels.shape), pixels)
    assert png.read(png.write(picture)) == picture


def test_a_thumbnail_is_the_mean_of_what_it_stands_for() -> None:
    pixels = drawn(60, 40, 3)
    small = png.read(encoded(pixels, [4])).thumbnail(6)
    assert (small.width, small.height) == (6, 4)
    expected = pixels.reshape(4, 10, 6, 10, 3).astype(int).sum(axis=(1, 3)) // 100
    assert np.array_equal(np.frombuffer(b"".join(small.rows), np.uint8).reshape(4, 6, 3), expected)
    assert png.Picture(2, 1, [b"\0\1"]).thumbnail(64).width == 2, "never larger"


def post(body: bytes, side: str = "6") -> fleet.Response:
    request = fleet.HttpRequest("POST", f"/thumbnails/{side}", {"side": side}, body=body)
    return thumbnails.thumbnail(fleet.Event(data=body, http=request))


def test_the_webhook_here() -> None:
    answer = post(encoded(drawn(60, 40, 3), [4]))
    assert (answer.status, answer.content_type, answer.headers["x-size"]) == (200, "image/png", "6x4")
    assert png.read(answer.body).width == 6
    assert post(b"GIF89a").status == 415
    assert post(b"", side="huge").status == 400
    assert post(b"", side="0").status == 400
    good = encoded(drawn(9, 9, 3), [1])
    dice = random.Random(5)
    for _ in range(200):
        bad = bytearray(good)
        for _ in range(dice.randrange(1, 4)):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        assert post(bytes(bad[: dice.randrange(len(bad) + 1)])).status in (200, 415)


def test_the_nightly_report_here() -> None:
    found = report.nightly(report.due("2026-03-03T11:15:00+00:00"))
    assert found["day"] == "2019-08-26", "the Monday that stands for Monday, March 2, 2026"
    assert {site: told["sessions"] for site, told in found["sites"].items()} == {"caltech": 30, "jpl": 72}
    # A tick a second before midnight there is about the day before.
    assert report.nightly(report.due("2026-03-03T07:59:59+00:00"))["day"] == "2019-08-25"


def test_every_day_stands_for_a_recorded_one_of_its_weekday() -> None:
    for n in range(0, 4000, 37):
        day = date(2019, 5, 6) + timedelta(days=n)
        stands = report.recorded_day(day)
        assert date(2019, 5, 6) <= stands <= report.LAST_RECORDED
        assert stands.weekday() == day.weekday()


def test_a_report_adds_up() -> None:
    day = date(2019, 9, 22)
    sessions = report.sessions_of(day)
    sites = report.report(day, sessions)["sites"]
    assert sum(told["sessions"] for told in sites.values()) == len(sessions) == 10
    assert sum(told["delivered_wh"] for told in sites.values()) == sum(one.delivered_wh for _, _, one in sessions)
    assert all(isinstance(one, Session) and one.arrival.astimezone(report.HERE).date() == day for _, _, one in sessions)


READING = {"station": "CA-305", "kwh": 44.1, "stood_min": 874, "at": "2019-05-01T22:52:36Z"}


def test_the_chain_here() -> None:
    emitted = meters.watch(fleet.Event("meters.caltech.CA-305", READING))
    assert emitted is not None and emitted.subject == "idle.CA-305"
    event = fleet.Event(emitted.subject, emitted.body, datacontenttype=emitted.datacontenttype)
    assert meters.remind(event) == "station CA-305: your car was full 7 h 53 min before you left"
    assert meters.watch(fleet.Event("meters.caltech.CA-305", READING | {"stood_min": 420})) is None


# --- on a fleet -------------------------------------------------------------------------------------------------------


def run(*words: str) -> tuple[str, str]:
    """What ``python -m WORDS`` prints, and says on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@contextmanager
def deployed(fleet: LocalFleet, app: str, *files: Path) -> Iterator[None]:
    """``files`` deployed as ``app`` for the length of a ``with``: clocks of others don't tick on."""
    for file in files:
        run("fleet.cli.main", "deploy", str(file), "--app", app)
    try:
        yield
    finally:
        fleet.ask(ApiVerb.DELETE, DeleteRequest(app=app, cancel=True), DeleteReply)


def printed(fleet: LocalFleet, app: str, function: str) -> list[str]:
    """What a function printed, in the order of time."""
    wanted = LogsRequest(app=app, function=function, limit=limits.LIST_ROWS_MAX)
    entries = fleet.ask(ApiVerb.LOGS, wanted, LogsReply).entries
    return [text for _, text in sorted((unix_s, text) for entry in entries for unix_s, _, text in entry.lines)]


def test_a_day_of_readings(shared_fleet: LocalFleet, capsys: pytest.CaptureFixture[str]) -> None:
    """Each large reading is watched once, each idle car reminded once, in order for each station; copies do nothing."""
    readings = list(replay.readings_of(DAY))
    large = [data for _, _, data in readings if data["kwh"] >= 8.0]
    emitted = [(data["station"], meters.watch(fleet.Event(data=data))) for data in large]
    watched = capsys.readouterr().out.splitlines()
    reminders = [(station, meters.remind(fleet.Event(data=one.body))) for station, one in emitted if one is not None]
    assert len(readings) > len(large) > len(reminders) > 30
    with deployed(shared_fleet, "meters"):
        assert run("examples.sensors.replay", DAY.isoformat())[0] == f"{len(readings)} readings published\n"
        shared_fleet.wait_for(
            lambda: len(printed(shared_fleet, "meters", "remind")) >= len(reminders), "all to be reminded"
        )
        said = printed(shared_fleet, "meters", "remind")
        assert Counter(said) == Counter(text for _, text in reminders)
        for station in {station for station, _ in reminders}:
            mine = [text for text in said if text.startswith(f"station {station}:")]
            assert mine == [text for at, text in reminders if at == station]
        run("examples.sensors.replay", DAY.isoformat())
        # What is published later is routed later: once this one is through, copies would have been, too.
        fleet.publish("meters.test.LAST", {"station": "LAST", "kwh": 8.0, "stood_min": 900, "at": "later"})
        shared_fleet.wait_for(lambda: len(printed(shared_fleet, "meters", "remind")) > len(said), "the last reminder")
        assert Counter(printed(shared_fleet, "meters", "watch")) == Counter(
            [*watched, "LAST later: 8.0 kWh, full for 827 min"]
        )


NIGHTLY_EVERY_SECOND = """
import fleet
from examples.nightly import report

soon = report.nightly.with_options(on=[fleet.cron("* * * * * *")])
"""


def test_the_nightly_report_by_its_clock(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    told = json.loads(run("fleet.cli.main", "deploy", str(ROOT / "examples/nightly/report.py"), "--json")[0])
    assert told["triggers"]["nightly"][0]["expression"] == "15 3 * * *"
    shared_fleet.ask(ApiVerb.DELETE, DeleteRequest(app="report"), DeleteReply)
    file = tmp_path / "often.py"
    file.write_text(NIGHTLY_EVERY_SECOND)
    before = datetime.now(report.HERE).date()
    with deployed(shared_fleet, "often", file):
        call = shared_fleet.wait_for(lambda: ended(shared_fleet, "often"), "a tick")
        found = fleet.Call.from_id(call).result(RUN_S)
    days = [report.recorded_day(day - timedelta(days=1)) for day in (before, datetime.now(report.HERE).date())]
    assert found in [report.report(day, report.sessions_of(day)) for day in days]


def ended(fleet: LocalFleet, app: str) -> str | None:
    """A call of ``app`` that succeeded."""
    calls = fleet.ask(ApiVerb.CALLS, CallsRequest(app=app), StatusReply).calls
    return next((one.call for one in calls if one.state == "succeeded"), None)


def test_the_webhook_over_http(shared_fleet: LocalFleet) -> None:
    address = f"{shared_fleet.http_url}/u/{shared_fleet.platform().tenant}/thumbnails/"
    with deployed(shared_fleet, "thumbnails"):
        out, said = run("examples.webhook.post")
        assert ": 48x30, mean #" in out
        assert f"thumbnails.thumbnail answers POST {address}{{side}}\n" in said
        body = encoded(drawn(60, 40, 3), [1, 2, 3, 4])
        assert urllib.request.urlopen(address + "6", body, timeout=RUN_S).read() == post(body).body
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address + "6", b"GIF89a", timeout=RUN_S)
        assert caught.value.code == 415
        assert json.load(caught.value) == {"error": "this is no PNG file"}
