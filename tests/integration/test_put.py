"""``fleet.put`` and packages from end to end: uploaded once, used many times, gone, put again."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import Any

import pytest

import fleet
from fleet import _put
from fleet._blobs import Blobs
from fleet._ref import Ref
from fleet.protocol.limits import MIB
from tests.integration import sdk_functions as fn

pytestmark = pytest.mark.usefixtures("shared_fleet")


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the parts that were uploaded."""
    sent: list[str] = []
    real = Blobs._put_part

    async def counted(self: Blobs, digest: str, size_bytes: int, part: int, body: memoryview) -> bool:
        sent.append(digest)
        return await real(self, digest, size_bytes, part, body)

    monkeypatch.setattr(Blobs, "_put_part", counted)
    return sent


def test_uploaded_once_used_by_many_calls(puts: list[str]) -> None:
    fn.pick.remote([0], 0)
    puts.clear()
    table = [number * 3 for number in range(50_000)]
    ref: Any = fleet.put(table)
    assert type(ref) is fleet.Ref and puts == [ref.digest]
    assert [fn.pick.remote(ref, number) for number in range(100)] == table[:100]
    assert list(fn.pick.starmap((ref, number) for number in range(1000))) == table[:1000]
    assert fn.pick(ref, 7) == fn.pick.remote(table, 7) == 21, "a local call, and one without put"
    assert puts == [ref.digest]
    group = fn.pick.spawn_map([ref] * 50, range(50))
    assert list(group.results()) == table[:50]
    assert asyncio.run(fn.pick.remote.aio(asyncio.run(fleet.put.aio(table)), 2)) == 6


def test_anywhere_in_the_arguments() -> None:
    rows: Any = fleet.put({"a": [1, 2]})
    assert fn.identity.remote([rows, {"x": (rows, 1)}]) == [{"a": [1, 2]}, {"x": ({"a": [1, 2]}, 1)}]
    many = [fleet.put([number]) for number in range(70)]
    assert list(fn.identity.map(many)) == [[number] for number in range(70)], "more than one call may refer to"
    assert list(fn.identity.spawn_map(many).results()) == [[number] for number in range(70)]
    with pytest.raises(fleet.WrongArguments, match="refer to 70 values"):
        fn.identity.remote(many)


def test_from_another_process() -> None:
    ref = fleet.put([5, 6, 7])
    code = "import pickle, sys, tests.integration.sdk_functions as fn\n"
    code += "print(fn.pick.remote(pickle.loads(bytes.fromhex(sys.argv[1])), 2))"
    done = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(ref).hex()], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "7\n", done.stderr


def test_a_value_of_32_mb() -> None:
    big: Any = fleet.put(bytes(range(256)) * (32 * MIB // 256))
    assert [fn.length.remote(big) for _ in range(3)] == [32 * MIB] * 3
    with pytest.raises(fleet.PayloadTooLarge, match="raise memory="):
        fn.length.with_options(memory="64MiB").remote(fleet.put(bytes(65 * MIB)))


def test_what_is_no_longer_kept(puts: list[str]) -> None:
    data, kept_here = _put._pickled(["never uploaded"])
    assert fn.identity.remote(kept_here) == ["never uploaded"]
    assert kept_here.digest in puts, "the client had the value, and put it"
    lost = Ref("0" * 64, 10)
    with pytest.raises(fleet.ResultExpired, match=r"no longer kept.*put it again"):
        fn.identity.remote(lost)
    with pytest.raises(fleet.ResultExpired, match="no longer kept"):
        list(fn.identity.map([lost]))
    liar = Ref(kept_here.digest, len(data) + 1)
    with pytest.raises(fleet.Refused, match="bytes"):
        fn.identity.remote(liar)


def test_a_large_call_with_a_reference() -> None:
    ref = fleet.put([1])
    more = bytes(5 * MIB)
    assert fn.identity.remote((ref, len(more))) == ([1], 5 * MIB)
    assert fn.lengths.remote(ref, more) == [1, 5 * MIB]
