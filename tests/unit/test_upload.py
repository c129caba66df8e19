"""Uploads of code and weights: one after the other, made when they are sent, told about when they take long."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from fleet import _upload
from fleet._blobs import Blobs
from fleet.protocol.limits import MIB, REQUEST_S
from fleet.protocol.messages import JaxProgram, Manifest, Program


class Store:
    """Takes blobs; ``log`` has what happened in its order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def put(self, digest: str, data: bytes) -> None:
        self.log.append(f"put {digest} {len(data)}")

    def read(self, digest: str) -> bytes:
        self.log.append(f"read {digest}")
        return bytes(MIB)


def test_each_piece_is_made_when_its_turn_comes_and_long_uploads_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(tell: Any) -> list[str]:
        store = Store()
        anyio.run(_upload.upload, cast(Blobs, store), ["a", "b", "c"], store.read, tell)
        return store.log

    said: list[str] = []
    assert run(said.append) == [what for name in "abc" for what in (f"read {name}", f"put {name} {MIB}")]
    assert said == []
    monkeypatch.setattr(_upload, "TELL_S", 0.0)
    run(said.append)
    assert said == [f"sent {n} MiB of code and weights: {n} of 3 pieces" for n in (1, 2)]
    run(None)
    assert capsys.readouterr() == ("", "\n".join(said) + "\n")


def test_who_deploys_large_weights_waits_longer() -> None:
    program = Program(bundle="0" * 64, bundle_bytes=1, module="m", qualname="f")
    plain = Manifest(app="a", function="f", display_name="f", program=program)
    heavy = program.model_copy(update={"jax": JaxProgram(weights_bytes=4096 * MIB)})
    assert _upload.patience_s([plain]) == REQUEST_S
    assert _upload.patience_s([plain, plain.model_copy(update={"program": heavy})]) > 80
