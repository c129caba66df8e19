"""Outcomes as values and exceptions of the caller, without running anything that a car chose."""

from __future__ import annotations

import json
from typing import Any

import pytest

import fleet
from fleet._results import Failure, decode_item, revive
from fleet.protocol.codec import ExceptionData, encode, encode_exception
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import WireError

ran: list[Any] = []


class SoldOut(Exception):
    """One with a constructor of its own, which must not run here."""

    def __init__(self, item: str, left: int) -> None:
        ran.append(item)
        super().__init__(f"{item}: {left} left")


class NotAnException:
    """A class that a car must not be able to instantiate."""

    def __init__(self, *args: Any) -> None:
        ran.append(args)


def raised(error: BaseException) -> Exception:
    failure = decode_item(encode_exception(error, prefix=b"\x01"))
    assert isinstance(failure, Failure)
    return failure.error


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as met:
        return met


@pytest.mark.parametrize("value", [None, 7, "text", b"bytes", [1, 2], {"a": (1, 2)}, {1, 2}, 2**100])
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_values(value: Any, kind: Any) -> None:
    assert decode_item(kind(encode(value, prefix=b"\x00"))) == value


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"), KeyError("k"), StopIteration(3), FileNotFoundError(2, "no such file"),
        ZeroDivisionError("division by zero"),
        UnicodeDecodeError("utf8", b"x", 0, 1, "broken"), ExceptionGroup("two", [ValueError(1), TypeError(2)]),
    ],
)  # fmt: skip
def test_builtin_types_come_back(error: Exception) -> None:
    back = raised(caught(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert any("Remote traceback" in note for note in back.__notes__)


def test_the_caller_s_own_type_comes_back_without_running_its_constructor() -> None:
    error = caught(SoldOut("apples", 0))
    ran.clear()
    back = raised(error)
    assert type(back) is SoldOut
    assert str(back) == "apples: 0 left"
    assert ran == []


def test_types_of_imported_modules_come_back() -> None:
    with pytest.raises(json.JSONDecodeError) as met:
        json.loads("{")
    assert type(raised(met.value)) is json.JSONDecodeError


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        ("never.imported", "Error"), (__name__, "NotAnException"), (__name__, "Missing"),
        ("builtins", "print"), ("builtins", "SystemExit"), ("builtins", "KeyboardInterrupt"), ("os", "system"),
        ("", ""), (__name__, "SoldOut.__init__"),
    ],
)  # fmt: skip
def test_other_types_are_remote_errors(module: str, qualname: str) -> None:
    ran.clear()
    failure = decode_item(encode(ExceptionData(module, qualname, "said so", args=("said so",)), prefix=b"\x01"))
    assert isinstance(failure, Failure)
    back = failure.error
    assert type(back) is fleet.RemoteError
    assert back.type_name.endswith(qualname)
    assert "said so" in str(back)
    assert ran == []


def test_arguments_that_do_not_fit_the_type() -> None:
    back = revive(ExceptionData("builtins", "UnicodeDecodeError", "odd", args=("odd",)))
    assert type(back) is fleet.RemoteError
    assert back.type_name == "UnicodeDecodeError"


def test_errors_of_the_platform_inside_the_sandbox_keep_their_class() -> None:
    back = raised(caught(fleet.ResultNotPortable("result is a socket")))
    assert type(back) is fleet.ResultNotPortable
    assert back.message == "result is a socket"


def test_notes_and_cause_come_along() -> None:
    error = ValueError("outer")
    error.add_note("a note")
    error.__cause__ = KeyError("inner")
    back = raised(caught(error))
    assert "a note" in back.__notes__
    assert repr(back.__cause__) == "KeyError('inner')"


def test_items_that_the_platform_ended() -> None:
    ended = decode_item(b"\x02" + WireError.of(fleet.CallTimeout("too slow")).model_dump_json().encode())
    assert isinstance(ended, Failure)
    assert type(ended.error) is fleet.CallTimeout


@pytest.mark.parametrize(
    "data", [b"", b"\x03", b"\x09abc", b"\x00", b"\x00\xc1", b"\x01\xc0", b"\x02{", b"\x00\x01\x01"]
)
def test_malformed_results(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_item(data)


def test_an_exception_as_a_value_is_a_value() -> None:
    back = decode_item(encode([caught(ValueError("kept"))], prefix=b"\x00"))
    assert isinstance(back[0], ValueError)
