"""Options of @fleet.function: friendly values in, checked units out, one clear sentence for everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fleet
from fleet.protocol import limits
from fleet.protocol.errors import InvalidOption
from fleet.protocol.options import Options
from fleet.protocol.units import format_bytes, format_seconds, parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("256MiB", 256 << 20),
        ("1 GiB", 1 << 30),
        ("64m", 64 << 20),
        ("1.5k", 1536),
        ("100kb", 100_000),
        (7, 7),
        ("12", 12),
    ],
)
def test_sizes(text: Any, count: int) -> None:
    assert parse_bytes(text, "memory", 0, 1 << 40) == count


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("10m", 600), ("7d", 604_800), ("250ms", 0.25), ("1.5h", 5400), (3, 3), (0.5, 0.5), ("30", 30), ("2 min", 120)],
)
def test_durations(text: Any, duration_s: float) -> None:
    assert parse_seconds(text, "timeout", 0, 1e9) == pytest.approx(duration_s)


@pytest.mark.parametrize("bad", ["", "MiB", "12 parsecs", "-1MiB", "1e3", True, None, 1.5, [], float("nan")])
def test_sizes_that_are_none(bad: Any) -> None:
    with pytest.raises(InvalidOption, match=r"memory=.*allowed is|memory=.* is no size"):
        parse_bytes(bad, "memory", 1, 100)


@pytest.mark.parametrize("bad", ["", "soon", "-1s", True, None, [], float("nan")])
def test_durations_that_are_none(bad: Any) -> None:
    with pytest.raises(InvalidOption, match=r"timeout=.* is no duration.*from 1 s to 1.66 min"):
        parse_seconds(bad, "timeout", 1, 100)


@given(st.integers(0, 1 << 50))
def test_formatted_sizes_are_near_the_truth(count: int) -> None:
    shown = format_bytes(count).replace(" ", "")
    assert parse_bytes(shown, "x", 0, 1 << 60) == pytest.approx(count, rel=1e-2, abs=1)


@given(st.floats(0.001, 1e7))
def test_formatted_durations_are_near_the_truth(duration_s: float) -> None:
    shown = format_seconds(duration_s).replace(" ", "")
    assert parse_seconds(shown, "x", 0, 1e9) == pytest.approx(duration_s, rel=2e-2)


def test_every_option_reaches_its_unit() -> None:
    given_options: dict[str, Any] = {
        "runtime": "wasm", "memory": "1GiB", "timeout": "2m", "queue_timeout": 9, "retries": fleet.Retries(4, "1s", 3, "1m"),
        "requires": fleet.Requires(region="eu"), "isolation": "call", "max_concurrency": 3, "result_ttl": "1d",
        "include": ["data/*.json"], "exclude": "*.md", "name": "other", "on": [], "packages": (), "params": None, "batch": None,
    }  # fmt: skip
    options = Options().changed(given_options)
    assert options.memory_bytes == 1 << 30
    assert options.timeout_s == 120
    assert options.queue_timeout_s == 9
    assert (options.retries.max_attempts, options.retries.delay_s, options.retries.max_delay_s) == (4, 1, 60)
    assert options.requires.region == "eu"
    assert options.isolation == "call"
    assert options.max_concurrency == 3
    assert options.result_ttl_s == 86_400
    assert options.include == ("data/*.json",)
    assert options.exclude == ("*.md",)
    assert options.name == "other"


def test_defaults_are_those_of_the_limits() -> None:
    options = Options()
    assert options.memory_bytes == limits.MEMORY_BYTES_DEFAULT
    assert options.timeout_s == limits.TIMEOUT_S_DEFAULT
    assert options.retries.max_attempts == 1
    assert options.queue_timeout_s is None


def test_an_int_says_how_often_to_try_again() -> None:
    assert Options().changed({"retries": 2}).retries.max_attempts == 3
    assert Options().changed({"retries": 0}).retries.max_attempts == 1


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("memory", "1MiB", "allowed is from 64 MiB to 3.99 GiB"),
        ("timeout", 0, "allowed is from 1 ms to 1 d"),
        ("timeout", "2d", "allowed is from 1 ms to 1 d"),
        ("queue_timeout", -1, "out of range"),
        ("retries", -1, "0 to 99"),
        ("retries", True, "0 to 99"),
        ("retries", "often", "fleet.Retries"),
        ("isolation", "none", '"instance" and "call"'),
        ("max_concurrency", 0, "from 1 on"),
        ("result_ttl", "1s", "from 1 min to 7 d"),
        ("include", "../secret", "below the project's folder"),
        ("include", "/etc/passwd", "below the project's folder"),
        ("name", "a b", "1 to 64 of the characters"),
        ("name", 7, "no text"),
        ("requires", "eu", "fleet.Requires"),
        ("requires", fleet.Requires(min_stay="10m"), "can't be promised yet"),
        ("params", {"w": 1}, 'is for runtime="jax" alone'),
        ("batch", 64, "give fleet.Batch"),
        ("runtime", "java", "not allowed"),
        ("on", ["cron"], "'cron' in on= is no trigger"),
        ("packages", "python-slugify", "give a list"),
        ("packages", ["x", 7], "7 in packages= is no text"),
        ("packages", ["jinja2=3"], "is no requirement"),
        ("packages", ["jinja2 3"], "is no requirement"),
        ("packages", [""], "is no requirement"),
        ("packages", ["-r requirements.txt"], "addresses and files aren't taken"),
        ("packages", ["./folder"], "addresses and files aren't taken"),
        ("packages", ["x @ git+https://example.org/x"], "addresses and files aren't taken"),
        ("packages", ["thing-1.0-py3-none-any.whl"], "addresses and files aren't taken"),
        ("packages", ["x; python_version < '3.12'"], "every car runs the same Python"),
        ("packages", [f"p{n}" for n in range(129)], "allowed are 128"),
        ("memroy", 1, "did you mean memory=?"),
        ("xyzzy", 1, "there are: "),
    ],
)
def test_refused_when_decorated(option: str, value: Any, says: str) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InvalidOption) as caught:
        fleet.function(**options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 101},
        {"max_attempts": True},
        {"backoff": 0.5},
        {"delay": -1},
        {"max_delay": "x"},
    ],
)
def test_retries_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        fleet.Retries(**options)


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ("Jinja2", "jinja2"),
        (" python_slugify == 8.0.4 ", "python-slugify==8.0.4"),
        ("rich[jupyter , all] >= 13 , <15", "rich[all,jupyter]<15,>=13"),
        ("zope.interface~=6.0", "zope-interface~=6.0"),
        ("a===1.0+local", "a===1.0+local"),
        ("x[]", "x"),
        ("x!=1.*", "x!=1.*"),
    ],
)
def test_requirements_are_kept_in_one_way_of_writing_them(given_text: str, kept: str) -> None:
    assert Options().changed({"packages": [given_text]}).packages == (kept,)


def test_packages_are_a_set() -> None:
    assert Options().changed({"packages": ["rich", "Attrs", "rich"]}).packages == ("attrs", "rich")
    assert Options().changed({"packages": None}).packages == ()


def test_options_of_the_other_lane_are_refused() -> None:
    with pytest.raises(InvalidOption, match="no file of yours reaches a car"):
        fleet.function(runtime="jax", packages=["python-slugify"])
    with pytest.raises(InvalidOption, match='is for runtime="jax" alone'):
        fleet.function(batch=fleet.Batch(max_size=8))
    with pytest.raises(InvalidOption, match="1 to 1024"):
        fleet.Batch(max_size=0)
    with pytest.raises(InvalidOption, match="max_wait"):
        fleet.Batch(max_wait="2s")
    assert fleet.Batch().max_wait_s == 0.005
