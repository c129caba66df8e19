"""How far events became calls."""

from __future__ import annotations

from fnplatform.triggers.state import Cursor, LaneState


def lane(upto: int, until: int | None = None) -> LaneState:
    """A trigger that has handled events up to ``upto``."""
    return LaneState(tenant="t", app="a", function="f", version="0" * 16, upto=upto, until=until)


def test_how_many_events_may_still_start_something() -> None:
    assert Cursor(seq=7).behind(10) == 3
    assert Cursor(seq=10).behind(10) == 0
    assert Cursor(seq=9, lagging={"x": lane(4)}).behind(10) == 6
    assert Cursor(seq=10, lagging={"x": lane(2, until=5)}).behind(10) == 3  # its trigger was changed at 5
