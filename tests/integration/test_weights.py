"""``params=`` end to end: sent once, kept on the car, passed to each slot once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import fleet
from fleet._blobs import Blobs
from fleet._jax import params
from fleet._jax.params import weights_of
from fleet.testing import LocalFleet

SIDE = 128


def forward(params: Any, x: Any) -> Any:
    for layer in params["layers"]:
        x = x @ layer
    return x + params["bias"]


def backward(params: Any, x: Any) -> Any:
    for layer in reversed(params["layers"]):
        x = x @ layer
    return x - params["bias"]


def said(of: LocalFleet, words: str) -> Counter[str]:
    """How often the car's log has these words, by the word before them."""
    lines = [line.split(words)[0].split()[-1] for line in of.stderr().splitlines() if words in line]
    return Counter(lines)


@pytest.mark.local_fleet(cars=1)
def test_weights_are_sent_fetched_and_passed_once(local_fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "PIECE_BYTES", 2 * SIDE * SIDE * 4)
    sent: list[str] = []
    put = Blobs.put

    async def noted(self: Blobs, digest: str, data: Any) -> None:
        sent.append(digest)
        await put(self, digest, data)

    monkeypatch.setattr(Blobs, "put", noted)
    rng = np.random.default_rng()  # Others every time: the car's folder outlives the test.
    layers = [(rng.standard_normal((SIDE, SIDE)) / 8).astype(np.float32) for _ in range(5)]
    weights = {"layers": layers, "bias": rng.standard_normal(SIDE).astype(np.float32)}
    pieces = {piece.digest for piece in weights_of(weights).pieces}
    assert len(pieces) == 3
    make = fleet.function(runtime="jax", params=lambda: weights)
    first, second = make(forward), make(backward)
    x = np.ones((2, SIDE), np.float32)
    with fleet.connect(local_fleet.url):
        for function in (first, second, first):
            np.testing.assert_allclose(function.remote(x), function(x), rtol=1e-4, atol=1e-4)
        assert len(sent) == len(set(sent)) == len(pieces) + 2, "three pieces and two programs"
        assert pieces < set(sent)
        assert said(local_fleet, " fetched, ") == {digest[:12]: 1 for digest in pieces}
        assert said(local_fleet, " got 3 pieces of weights").total() == 1
        car = local_fleet.cars[0]
        car.drive_away()
        car.park()
        np.testing.assert_allclose(second.remote(x), second(x), rtol=1e-4, atol=1e-4)
        assert len(said(local_fleet, " got 3 pieces of weights")) == 2, "another slot, the same files"
        assert said(local_fleet, " fetched, ") == {digest[:12]: 1 for digest in pieces}
