"""How far events became calls."""

from __future__ import annotations

from fnplatform.triggers.shaping import ShaperState
from fnplatform.triggers.state import Cursor, LaneState


def lane(upto: int, until: int | None = None, app: str = "a", held: int = 0) -> LaneState:
    """A trigger that has handled events up to ``upto``, but for ``held``."""
    shaper = ShaperState(upto=upto, held=[1] * held) if held else None
    return LaneState(tenant="t", app=app, function="f", version="0" * 16, upto=upto, until=until, shaper=shaper)


def test_how_many_events_may_still_start_something() -> None:
    assert Cursor(seq=7).behind(10) == 3
    assert Cursor(seq=10).behind(10) == 0
    assert Cursor(seq=9, lagging={"x": lane(4)}).behind(10) == 6
    assert Cursor(seq=10, lagging={"x": lane(2, until=5)}).behind(10) == 3  # its trigger was changed at 5


def test_how_many_events_an_app_waits_for() -> None:
    cursor = Cursor(seq=10, lagging={"x": lane(4), "y": lane(2, until=5), "z": lane(10, held=7), "o": lane(1, app="b")})
    assert cursor.held_for("t", "a") == 6 + 3 + 7
    assert cursor.held_for("t", "b") == 9
    assert cursor.held_for("u", "a") == 0
