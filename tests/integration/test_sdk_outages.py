"""The SDK while parts of the platform die: calls are handed over once, and results arrive late rather than never."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import fleet
from fleet.testing import LocalFleet
from tests.integration import sdk_functions as fn


def in_thread(work: Any) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []

    def run() -> None:
        try:
            got.append(work())
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, got


@pytest.mark.local_fleet(cars=1)
@pytest.mark.parametrize("part", ["control", "broker"])
def test_a_killed_process_costs_time_but_no_call(local_fleet: LocalFleet, part: str) -> None:
    assert fn.add.remote(1) == 2
    slow = fn.wait.spawn(3.0)
    calls = [fn.add.spawn(x) for x in range(200)]
    mapped, got = in_thread(lambda: list(fn.add.map(range(3000), chunksize=50)))
    process = getattr(local_fleet, part)
    process.kill()
    late, late_got = in_thread(lambda: fn.add.remote(41))
    process.wait_restarted()
    assert [call.result(timeout=120) for call in calls] == list(range(1, 201))
    assert slow.result(timeout=120) == 3.0
    mapped.join(120)
    late.join(120)
    assert got == [list(range(1, 3001))]
    assert late_got == [42]


def test_a_broker_without_a_control_plane(local_fleet: LocalFleet) -> None:
    """The supervisor is stopped, so that the control plane stays away."""
    import os
    import signal

    os.kill(local_fleet.pid, signal.SIGSTOP)
    try:
        os.kill(local_fleet.control.pid, signal.SIGKILL)
        local_fleet.wait_for(lambda: _nobody_listens(local_fleet.url), "the control plane to be gone")
        begun_s = time.monotonic()
        with fleet.connect(local_fleet.url), pytest.raises(fleet.FleetUnavailable, match="no control plane"):
            fn.add.remote(1)
        assert time.monotonic() - begun_s < 4
    finally:
        os.kill(local_fleet.pid, signal.SIGCONT)


def _nobody_listens(url: str) -> bool:
    from fleet.protocol.messages import PlatformReply, PlatformRequest
    from fleet.protocol.subjects import ApiVerb

    with fleet.connect(url) as client:
        try:
            client.request(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply, timeout_s=0.5)
        except fleet.FleetUnavailable as error:
            return "no control plane" in str(error)
    return False
