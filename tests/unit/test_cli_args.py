"""Words of the command line become arguments of the hinted types, or WrongArguments names the word."""

from __future__ import annotations

import inspect
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fleet
from fleet._register import signature_text
from fleet.cli.args import Parameter, bind_words, check_arguments, convert, from_json, parameters_of, parameters_of_text
from fleet.cli.calls import split_target
from fleet.protocol.errors import InvalidOption, WrongArguments


@pytest.mark.parametrize(
    ("word", "hint", "value"),
    [
        ("7", int, 7),
        ("-7", int, -7),
        ("7", str, "7"),
        ("2.5", float, 2.5),
        ("7", float, 7.0),
        ("yes", bool, True),
        ("False", bool, False),
        ("0", bool, False),
        ("ab", bytes, b"ab"),
        ("[1, 2]", list[int], [1, 2]),
        ("[1, 2]", tuple[int, int], (1, 2)),
        ("[1, 1]", set[int], {1}),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ("none", Optional[int], None),  # noqa: UP045 (both spellings are meant)
        ("4", Optional[int], 4),  # noqa: UP045
        ("null", int | None, None),
        ("text", int | str, "text"),
        ("4", int | str, 4),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("7", Any, 7),
        ("seven", Any, "seven"),
        ("[1]", Any, [1]),
    ],
)
def test_converts_by_hint(word: str, hint: Any, value: Any) -> None:
    got = convert(word, hint)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("x", int),
        ("2.5", int),
        ("maybe", bool),
        ('{"a": 1}', list[int]),
        ("[1]", dict[str, int]),
        ("1,2", list[int]),
        ("c", Literal["a", "b"]),
        ("x", int | None),
    ],
)
def test_refuses_what_does_not_fit_and_names_the_parameter(word: str, hint: Any) -> None:
    with pytest.raises(WrongArguments, match="size="):
        convert(word, hint, "size")


@given(st.integers() | st.floats(allow_nan=False))
def test_numbers_survive(number: float) -> None:
    assert convert(repr(number), type(number)) == number


def scale(x: int, y: float = 1.0, *rest: str, deep: bool = False, **more: list[int]) -> None: ...


def test_binds_positions_keywords_and_rest() -> None:
    positional, keywords = bind_words(["3", "2", "a", "deep=yes", "odd=[1]"], parameters_of(scale))
    assert positional == [3, 2.0, "a"]
    assert keywords == {"deep": True, "odd": [1]}


def test_text_with_an_equals_sign_stays_text_where_no_parameter_has_that_name() -> None:
    def shout(text: str) -> None: ...

    assert bind_words(["a=b"], parameters_of(shout)) == (["a=b"], {})
    assert bind_words(["text=b"], parameters_of(shout)) == ([], {"text": "b"})


def test_too_many_words_are_refused() -> None:
    def one(x: int) -> None: ...

    with pytest.raises(WrongArguments, match=r"at most 1 argument: '2'"):
        bind_words(["1", "2"], parameters_of(one))


def test_signature_text_gives_the_same_parameters_as_the_function() -> None:
    kinds = inspect.Parameter
    text = (
        "(x: int, /, y: 'float | None' = 1.0, *rest: str, deep: bool = False, tags: Optional[list[int]] = None, **more)"
    )
    assert parameters_of_text(text) == [
        Parameter("x", int, kinds.POSITIONAL_ONLY),
        Parameter("y", float | None),
        Parameter("rest", str, kinds.VAR_POSITIONAL),
        Parameter("deep", bool, kinds.KEYWORD_ONLY),
        Parameter("tags", list | None, kinds.KEYWORD_ONLY),
        Parameter("more", Any, kinds.VAR_KEYWORD),
    ]


def test_an_unreadable_signature_takes_anything() -> None:
    assert bind_words(["1", "x"], parameters_of_text("(x: <lambda>)")) == ([1, "x"], {})


def test_signature_text_is_never_run() -> None:
    assert parameters_of_text("(x: __import__('os').abort() = __import__('os').abort())")[0].hint is Any


def test_json_arguments() -> None:
    assert from_json("[1, null]") == ([1, None], {})
    assert from_json('{"x": [2]}') == ([], {"x": [2]})
    for bad in ("3", "nope", ""):
        with pytest.raises(WrongArguments):
            from_json(bad)


def test_targets() -> None:
    assert split_target("app") == ("app", None)
    assert split_target("app.fn") == ("app", "fn")
    app, token = split_target("app.Cls.method")
    assert app == "app"
    assert token is not None
    assert token.startswith("Cls-method-")
    with pytest.raises(InvalidOption):
        split_target("no app.fn")


def test_a_decorated_function_is_read_through_its_decorator() -> None:
    assert bind_words(["3", "2"], parameters_of(fleet.function(scale))) == ([3, 2.0], {})


@pytest.mark.parametrize(
    ("positional", "keywords", "sentence"),
    [
        ([], {}, "missing 1 required positional argument: 'x'"),
        ([1, 2, 3], {}, "takes from 1 to 2 positional arguments but 3 were given"),
        ([1], {"z": 2}, "unexpected keyword argument 'z'"),
    ],
)
def test_arguments_that_a_deployed_function_does_not_take_are_refused_here(
    positional: list[object], keywords: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WrongArguments, match=sentence) as refused:
        check_arguments("app.add", "(x: int, y: int = undefined()) -> int", positional, keywords)
    assert "app.add(x: int" in refused.value.hint


def test_arguments_that_fit_run_nothing_of_the_signature() -> None:
    check_arguments("app.add", "(x: 1 / 0, *rest, y=1 / 0, **more) -> 1 / 0", [1, 2], {"z": 3})


def test_an_event_is_made_of_its_data() -> None:
    def f(event: fleet.Event) -> None:
        raise AssertionError(event)

    function = fleet.function(f)
    for parameters in (
        parameters_of(function),
        parameters_of_text(signature_text(function)),
        parameters_of_text("(event: fleet.Event | None = None)"),
    ):
        (event,), _ = bind_words(['{"t": 31}'], parameters)
        assert isinstance(event, fleet.Event)
        assert event.data == {"t": 31}
        assert bind_words(["hot"], parameters)[0][0].data == "hot"
    assert bind_words(['{"t": 31}'], parameters_of_text("(event: calendar.Event)"))[0] == [{"t": 31}]
