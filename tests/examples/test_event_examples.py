"""The examples of events: what their functions compute here, and what they do once something happens on a fleet."""

from __future__ import annotations

import random
import struct
import zlib
from datetime import date, timedelta

import numpy as np
import pytest

import fleet
from examples.nightly import report
from examples.sensors import meters
from examples.sessions.score import Session
from examples.webhook import png, thumbnails


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
