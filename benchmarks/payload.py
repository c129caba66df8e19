"""A megabyte there and a megabyte back."""

from __future__ import annotations

import os
import time

from benchmarks.functions import echo
from benchmarks.harness import Figure, Settings, Sync, figure, fleet_of

SIZE_BYTES = 1_000_000
PAYLOADS = 16
IN_FLIGHT = 8


def one_after_the_other(payloads: list[bytes], calls: int) -> float:
    """MB per second, both ways counted."""
    began = time.perf_counter()
    for number in range(calls):
        data = payloads[number % PAYLOADS]
        assert echo.remote(data) == data
    return 2 * calls * SIZE_BYTES / 1e6 / (time.perf_counter() - began)


def several_at_once(payloads: list[bytes], calls: int) -> float:
    """The same with IN_FLIGHT calls handed over ahead."""
    began = time.perf_counter()
    open_calls = [(number, echo.spawn(payloads[number % PAYLOADS])) for number in range(IN_FLIGHT)]
    for following in range(IN_FLIGHT, calls + IN_FLIGHT):
        number, call = open_calls.pop(0)
        assert call.result(timeout=60) == payloads[number % PAYLOADS]
        if following < calls:
            open_calls.append((following, echo.spawn(payloads[following % PAYLOADS])))
    return 2 * calls * SIZE_BYTES / 1e6 / (time.perf_counter() - began)


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Several runs of either kind, in turns, on one car with one slot."""
    payloads = [os.urandom(SIZE_BYTES) for _ in range(PAYLOADS)]
    calls = 40 if settings.quick else 100
    single, several = [], []
    with fleet_of(cars=1, sync=sync):
        one_after_the_other(payloads, 5)
        for _ in range(3 if settings.quick else 7):
            single.append(one_after_the_other(payloads, calls))
            several.append(several_at_once(payloads, calls))
    return [
        figure(
            f"1 MB there and back, {IN_FLIGHT} in flight", several, "MB/s", target=80.0, better="more", sync=sync,
            note="both ways counted; aim 150",
        ),
        figure("1 MB there and back, one after the other", single, "MB/s", better="more", sync=sync),
    ]  # fmt: skip
