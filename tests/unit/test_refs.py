"""References to values that were put once: what they are, who finds them, who keeps their values."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fleet
from fleet import _put, _ref
from fleet._packed import Together, pack_items, packed, refs_of
from fleet._portable.arguments import ArgumentPickler
from fleet._ref import Ref
from fleet.protocol.errors import PayloadTooLarge, ResultExpired, WrongArguments
from fleet.protocol.frames import unpack_items
from fleet.protocol.limits import MIB, REFS_BYTES_MAX, REFS_MAX
from runtime.held_values import HeldValues
from tests.unit import sdk_sample

PICKLER = ArgumentPickler(None)


def ref(name: str, size_bytes: int = 10, **value: Any) -> Ref[Any]:
    return Ref(name * 64, size_bytes, **value)


def test_a_reference_is_a_small_value() -> None:
    one = ref("a", 3 * MIB, value=[1])
    assert one.value == [1] and one.here
    assert repr(one) == "<fleet.Ref aaaaaaaaaaaa, 3 MiB>"
    assert one == ref("a") and one != ref("b") and len({one, ref("a")}) == 1
    assert copy.copy(one) is one and copy.deepcopy([one])[0] is one
    for change in (lambda: setattr(one, "digest", "x"), lambda: delattr(one, "digest")):
        with pytest.raises(AttributeError, match="can't be changed"):
            change()
    with pytest.raises(AttributeError, match="stands for its value"):
        _ = one.columns  # type: ignore[attr-defined]


def test_in_another_process_it_is_a_reference_without_its_value() -> None:
    again = pickle.loads(pickle.dumps(ref("a", value=[1])))
    assert type(again) is Ref and again == ref("a") and not again.here
    with pytest.raises(WrongArguments, match="another process"):
        _ = again.value


def test_in_a_sandbox_it_is_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps({"a": [ref("a")], "b": ref("b")})
    monkeypatch.setattr(_ref, "_store", lambda digest: f"value of {digest[0]}")
    assert pickle.loads(data) == {"a": ["value of a"], "b": "value of b"}
    assert fleet.put(5) == 5, "and there is nothing to upload"


def test_packed_arguments_know_what_they_refer_to() -> None:
    one, other = ref("a"), ref("b")
    data = PICKLER.dumps((one, [{"x": (other, one)}]), {"more": {one}})
    assert refs_of(data) == {one.digest: one, other.digest: other}
    assert refs_of(PICKLER.dumps((1, "a"), {})) == {} == refs_of(PICKLER.dumps(([1],), {}))


def test_each_thread_gets_its_own() -> None:
    wrong: list[str] = []

    def work(name: str) -> None:
        mine = ref(name)
        for _ in range(300):
            if refs_of(PICKLER.dumps(([mine],), {})) != {mine.digest: mine}:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_refers_to_so_much_and_no_more() -> None:
    many = [Ref(f"{number:064x}", 1) for number in range(REFS_MAX + 1)]
    assert len(refs_of(PICKLER.dumps((many[:-1],), {}))) == REFS_MAX
    with pytest.raises(WrongArguments, match=f"refer to {REFS_MAX + 1} values"):
        PICKLER.dumps((many,), {})
    half = REFS_BYTES_MAX // 2
    with pytest.raises(PayloadTooLarge, match="in all"):
        PICKLER.dumps((ref("a", half), ref("b", half), ref("c", 1)), {})


def test_items_of_a_chunk_share_what_one_call_may_refer_to() -> None:
    items = [packed(b"%d" % number, {f"{number:064x}": Ref(f"{number:064x}", 1)}) for number in range(REFS_MAX + 1)]
    together = Together()
    assert all(together.take(item) for item in items[:-1])
    assert together.take(items[0]) and together.take(b"without any"), "nothing new to refer to"
    assert not together.take(items[-1])
    assert Together().take(items[-1])
    chunk = pack_items([*items[:3], b"plain", items[0]])
    assert len(refs_of(chunk)) == 3
    assert [bytes(item) for item in unpack_items(chunk, 10)] == [b"0", b"1", b"2", b"plain", b"0"]
    assert type(pack_items([b"plain"])) is bytes


# --- local calls


@fleet.function
def seen(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def test_a_local_call_gets_the_values() -> None:
    table, plain = [1, 2], {"deep": [object()]}
    one = ref("a", value=table)
    args, kwargs = seen([one, (one, {"k": one})], plain, x=one)
    assert args == ([table, (table, {"k": table})], plain) and kwargs == {"x": table}
    assert args[0][0] is table and args[1] is plain, "what holds no reference is the caller's own object"
    assert seen.local(one)[0][0] is table
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert seen(cycle)[0][0] is cycle
    assert sdk_sample.add(1, 2) == 3
    with pytest.raises(WrongArguments, match="another process"):
        seen(pickle.loads(pickle.dumps(one)))


# --- putting


def test_what_cannot_be_put_is_named_before_anything_is_sent() -> None:
    with pytest.raises(WrongArguments, match=r"the value\[1\] is a _thread.lock, which can't travel"):
        fleet.put([1, threading.Lock()])
    with pytest.raises(WrongArguments, match="a reference already"):
        fleet.put(ref("a"))
    with pytest.raises(WrongArguments, match="can't hold references"):
        fleet.put([ref("a")])


def test_the_same_value_has_the_same_digest() -> None:
    data, one = _put._pickled({"a": [1, 2]})
    assert one == _put._pickled({"a": [1, 2]})[1] != _put._pickled({"a": [1, 3]})[1]
    assert one.size_bytes == len(data)
    assert _put.put_again(one) == data


def test_what_expired_is_put_again_only_by_who_has_it_unchanged() -> None:
    value = [1, 2]
    one = _put._pickled(value)[1]
    with pytest.raises(ResultExpired, match=r"no longer kept.*hint: put it again"):
        _put.put_again(pickle.loads(pickle.dumps(one)))
    value.append(3)
    with pytest.raises(ResultExpired, match="changed here meanwhile"):
        _put.put_again(one)
    value.append(threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(ResultExpired, match="can't be pickled any more"):
        _put.put_again(one)


# --- who keeps them


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=30), st.integers(1, 9))
def test_what_is_held_is_what_was_sent_and_not_dropped(jobs: list[set[str]], bytes_max: int) -> None:
    held = HeldValues()
    there: dict[str, int] = {}
    order: list[str] = []
    for job in jobs:
        refs = {name: ord(name) - ord("a") + 1 for name in sorted(job)}
        gone, new = held.use(refs, bytes_max)
        assert not set(gone) & job and set(gone) <= there.keys() and not set(new) & there.keys()
        for name in gone:
            del there[name]
        there.update({name: refs[name] for name in new})
        assert job <= there.keys(), "what the job uses is there"
        assert sum(there.values()) <= max(bytes_max, sum(refs.values()))
        order = [name for name in order if name not in job] + sorted(job)
        kept = [name for name in order if name in there]
        assert all(order.index(name) < order.index(kept[0]) for name in gone), "the one used longest ago goes first"
