"""The contracts: subjects both ways, frames against damage, ids, limits, golden schemas."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fleet.protocol import errors, frames, ids, messages, subjects
from fleet.protocol.errors import ProtocolError

GOLDEN = Path(__file__).parent.parent / "golden" / "messages.json"
token = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)

TEMPLATES = {name: value for name, value in vars(subjects).items() if isinstance(value, subjects.Template)}


@pytest.mark.parametrize("name", TEMPLATES)
@given(data=st.data())
def test_every_subject_is_parsed_as_it_was_built(name: str, data: st.DataObject) -> None:
    template = TEMPLATES[name]
    fields = [part[1:-1] for part in template.text.split(".") if part.startswith("{")]
    values = {
        field.removesuffix("*"): ".".join(data.draw(st.lists(token, min_size=1, max_size=3)))
        if field.endswith("*")
        else data.draw(token)
        for field in fields
    }
    assert template.parse(template.build(**values)) == values


@pytest.mark.parametrize("bad", ["", "a.b", "*", ">", "a b", "a\r\nPUB x", "ü", "a" * 65])
def test_what_is_no_token_never_reaches_a_subject(bad: str) -> None:
    with pytest.raises(ProtocolError):
        subjects.INVOCATION.build(partition="0", tenant="t", app="a", function="f", call=bad)


def test_verbs_are_closed_and_fit_their_template() -> None:
    for verb in subjects.ApiVerb:
        assert subjects.API.parse(subjects.API.build(tenant="t", verb=verb)) == {"tenant": "t", "verb": str(verb)}


@pytest.mark.parametrize(
    ("reply", "allowed"),
    [
        ("_INBOX_dev_default.abc.r.1", True),
        ("_INBOX_dev_other.abc.r.1", False),
        ("_INBOX_car_default.abc.r.1", False),
        ("_INBOX_dev_default", False),
        ("_INBOX_dev_default.>", False),
        ("_INBOX_dev_default.*", False),
        ("_INBOX_dev_default..x", False),
        ("$JS.API.STREAM.PURGE.INVOCATIONS", False),
        ("_INBOX_dev_defaultx.$JS", False),
        ("x._INBOX_dev_default.a", False),
        ("", False),
    ],
)
def test_only_a_principals_own_plain_inbox_is_answered(reply: str, allowed: bool) -> None:
    assert subjects.is_inbox_of(reply, "dev", "default") is allowed


def test_control_plane_processes_answer_each_other_alone() -> None:
    assert subjects.is_inbox_of("_INBOX_control_c1.abc.r.1", "control", None)
    for reply in ("$JS.API.STREAM.PURGE.INVOCATIONS", "_INBOX_dev_default.a.r.1", "_INBOX_control_c1", ""):
        assert not subjects.is_inbox_of(reply, "control", None)


def test_triggers_keep_their_kind_on_the_wire() -> None:
    """Defaults are left out of messages, and the kind is one."""
    found = [messages.CronTrigger(expression="@daily"), messages.EveryTrigger(every_s=3.0),
             messages.AtTrigger(at_unix_s=1.0), messages.SubjectTrigger(subject="a.>"),
             messages.HttpTrigger(method="GET", path="/x")]  # fmt: skip
    program = messages.Program(bundle="0" * 64, bundle_bytes=1, module="m", qualname="f")
    manifest = messages.Manifest(app="a", function="f", display_name="f", program=program, triggers=found)
    assert frames.unpack(frames.pack(manifest), messages.Manifest)[0] == manifest


def test_a_frame_returns_what_was_packed() -> None:
    request = messages.CallRequest(calls=["a", "b"])
    model, parts = frames.unpack(frames.pack(request, [b"", b"xyz", bytes(1000)]), messages.CallRequest)
    assert model == request
    assert [bytes(part) for part in parts] == [b"", b"xyz", bytes(1000)]


@given(st.binary(max_size=200))
def test_noise_is_a_protocol_error(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.unpack(noise, messages.SubmitRequest)


@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_frame_is_a_protocol_error_or_still_a_message(cut: int, flip: int, bit: int) -> None:
    whole = bytearray(frames.pack(messages.CallRequest(calls=["a"], group="g"), [b"abc", b"defg"]))
    whole[flip % len(whole)] ^= 1 << bit
    try:
        frames.unpack(whole[: 1 + cut % len(whole)], messages.CallRequest)
    except ProtocolError:
        pass


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_items_come_back(items: list[bytes]) -> None:
    assert [bytes(item) for item in frames.unpack_items(frames.pack_items(items), 20)] == items


def test_an_item_count_over_the_limit_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ProtocolError):
        frames.unpack_items(b"\xff\xff\xff\xff", 4096)


def test_call_ids_are_uuid7_and_sort_by_time() -> None:
    made = [ids.new_call_id(unix_ms) for unix_ms in (1, 2, 1_800_000_000_000)]
    assert made == sorted(made)
    assert all(ids.is_token(call) and call[12] == "7" and call[16] in "89ab" for call in made)
    assert ids.call_id_unix_s(made[2]) == 1_800_000_000
    assert len({ids.new_call_id() for _ in range(10_000)}) == 10_000


@given(st.text(min_size=1, max_size=100))
def test_every_display_name_has_a_token(display: str) -> None:
    assert ids.is_token(ids.token_of(display))


def test_different_display_names_have_different_tokens() -> None:
    assert ids.token_of("<lambda>") != ids.token_of("lambda")
    assert ids.token_of("a.b") != ids.token_of("a-b")


@pytest.mark.parametrize("cls", list(errors.BY_CODE.values()))
def test_an_error_comes_back_as_its_class(cls: type[errors.FleetError]) -> None:
    error = cls("it broke", hint="mend it", limit=3)
    again = messages.WireError.of(error).to_error()
    assert type(again) is cls
    assert (again.message, again.hint, again.details) == ("it broke", "mend it", {"limit": 3})


def test_codes_are_unique() -> None:
    def classes(cls: type[errors.FleetError]) -> list[type[errors.FleetError]]:
        return [cls, *(found for sub in cls.__subclasses__() for found in classes(sub))]

    found = [cls for cls in classes(errors.FleetError) if cls.__module__ == errors.__name__]
    assert len({cls.code for cls in found}) == len(found)


def schemas() -> dict[str, object]:
    """The JSON Schema of every wire model by name."""
    found = {
        name: value.model_json_schema()
        for name, value in inspect.getmembers(messages, inspect.isclass)
        if issubclass(value, BaseModel) and value.__module__.startswith(messages.__name__)
    }
    return json.loads(json.dumps(found, sort_keys=True))  # type: ignore[no-any-return]


def test_the_schemas_are_the_golden_ones() -> None:
    """A difference is a change of the protocol: mind N-1, then run ``python -m tests.unit.test_protocol``."""
    assert schemas() == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(schemas(), indent=1, sort_keys=True) + "\n")
