"""A call over HTTP against ``.remote()`` of the same function on the same fleet: what HTTP adds."""

from __future__ import annotations

import http.client
import subprocess
import sys
from pathlib import Path
from typing import Any

import fleet
from benchmarks.harness import Figure, Pair, Settings, Sync, figure, fleet_of, interleaved, timed

APP = "bench"
WARM_UP = 50
FUNCTIONS = Path(__file__).with_name("gateway_app.py")


def measure(settings: Settings, sync: Sync) -> list[Figure]:
    """Differences within pairs of blocks, over several fresh starts."""
    calls: list[Pair] = []
    routes: list[Pair] = []
    for _ in range(settings.starts):
        with fleet_of(cars=1, sync=sync, http=True) as started:
            subprocess.run(
                [sys.executable, "-P", "-m", "fleet.cli.main", "deploy", str(FUNCTIONS), "--app", APP],
                check=True, capture_output=True,
            )  # fmt: skip
            remote = fleet.Function.from_name(APP, "add").remote
            client = http.client.HTTPConnection(started.http_url.removeprefix("http://"))

            def remote_block(count: int, remote: Any = remote) -> list[float]:
                return timed(lambda: remote(x=1), count)

            def call_block(count: int, client: http.client.HTTPConnection = client) -> list[float]:
                path = f"/v1/apps/{APP}/functions/add:call"
                return timed(lambda: _asked(client, "POST", path, b'{"x": 1}'), count)

            def route_block(count: int, client: http.client.HTTPConnection = client) -> list[float]:
                return timed(lambda: _asked(client, "GET", "/u/default/add"), count)

            for block in (remote_block, call_block, route_block):
                block(WARM_UP)
            calls += interleaved(call_block, remote_block, settings)
            routes += interleaved(route_block, remote_block, settings)
            client.close()
    return [
        figure(
            "gateway :call p50 over .remote() p50", [1000 * pair.difference for pair in calls], "ms", target=3.0,
            sync=sync, note="difference of p50s of neighbouring blocks",
        ),
        figure("gateway :call p50", [1000 * s for pair in calls for s in pair.first], "ms", sync=sync),
        figure("gateway route p50 over .remote() p50", [1000 * pair.difference for pair in routes], "ms", sync=sync),
    ]  # fmt: skip


def _asked(client: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> None:
    client.request(method, path, body, {"content-type": "application/json"})
    answer = client.getresponse()
    said = answer.read()
    assert answer.status == 200, said
