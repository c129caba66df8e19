"""Words of a command line as arguments of a function: pure.

``name=value`` is a keyword argument where the function has a parameter ``name`` (or takes ``**kwargs``); all others go by
position. Words are converted by the parameter's type hint: int, float, bool, str as they are; list, dict, tuple, set and
everything without a usable hint as JSON where it parses, else as text; a ``fleet.Event`` is one with such data.
``Optional`` accepts ``none`` and ``null``.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fleet
from fleet.protocol.errors import WrongArguments

TRUE = frozenset(("true", "yes", "on", "1"))
FALSE = frozenset(("false", "no", "off", "0"))
_KEYWORD = re.compile(r"([A-Za-z_]\w*)=(.*)\Z", re.DOTALL)
_NAMES: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "bytes": bytes, "list": list, "dict": dict, "tuple": tuple,
    "set": set, "frozenset": frozenset, "None": type(None), "List": list, "Dict": dict, "Tuple": tuple, "Set": set,
}  # fmt: skip

_EVENT = ("fleet.Event", "fleet._event_values.Event")
"""How signatures name it, as written there and as Python shows a class."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What is known of one parameter: its name, its type (Any if unknown), and how it takes arguments."""

    name: str
    hint: Any = Any
    kind: inspect._ParameterKind = inspect.Parameter.POSITIONAL_OR_KEYWORD


def parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a function that is here."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # a hint that exists only for type checkers
        hints = {}
    signature = inspect.signature(function)
    return [Parameter(name, hints.get(name, Any), found.kind) for name, found in signature.parameters.items()]


def parameters_of_text(signature: str) -> list[Parameter]:
    """The parameters of ``(x: int, y: int = 1) -> int``, as a manifest keeps it; no code of it is run."""
    try:
        tree = ast.parse(f"def f{signature}: pass")
    except (SyntaxError, ValueError):
        return [Parameter("args", Any, inspect.Parameter.VAR_POSITIONAL)]
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    found = function.args
    kinds = inspect.Parameter
    rows: list[tuple[ast.arg | None, inspect._ParameterKind]] = [
        *((arg, kinds.POSITIONAL_ONLY) for arg in found.posonlyargs),
        *((arg, kinds.POSITIONAL_OR_KEYWORD) for arg in found.args),
        (found.vararg, kinds.VAR_POSITIONAL),
        *((arg, kinds.KEYWORD_ONLY) for arg in found.kwonlyargs),
        (found.kwarg, kinds.VAR_KEYWORD),
    ]
    return [Parameter(arg.arg, _hint_of(arg.annotation), kind) for arg, kind in rows if arg is not None]


def check_arguments(name: str, signature: str, positional: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """WrongArguments, in Python's words, when a signature as a manifest keeps it doesn't take these.

    A function with the same parameters and an empty body is called; defaults and hints are left out unevaluated.
    """
    try:
        tree = ast.parse(f"def f{signature}: pass")
    except (SyntaxError, ValueError):
        return
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    found = function.args
    function.returns = None
    found.defaults = [ast.Constant(None) for _ in found.defaults]
    found.kw_defaults = [default and ast.Constant(None) for default in found.kw_defaults]
    for arg in ast.walk(found):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    namespace: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), "<signature>", "exec"), namespace)
    namespace["f"].__qualname__ = name
    try:
        namespace["f"](*positional, **keywords)
    except TypeError as error:
        raise WrongArguments(str(error), hint=f"its signature is {name}{signature}") from None


def _hint_of(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # a hint in quotes
        try:
            node = ast.parse(node.value, mode="eval").body
        except SyntaxError:
            return Any
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _hint_of(node.left) | _hint_of(node.right)
    if isinstance(node, ast.Subscript):
        outer = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if outer == "Optional":
            return _hint_of(node.slice) | None
        return _NAMES.get(outer, Any)
    if isinstance(node, ast.Attribute):
        return fleet.Event if ast.unparse(node) in _EVENT else _NAMES.get(node.attr, Any)
    return _NAMES.get(node.id, Any) if isinstance(node, ast.Name) else Any


def bind_words(words: Sequence[str], parameters: Sequence[Parameter]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments from ``words``; WrongArguments names the word that doesn't fit."""
    named = {found.name: found for found in parameters if found.kind not in (
        inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    )}  # fmt: skip
    by_position = [found for found in parameters if found.kind in (
        inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    )]  # fmt: skip
    rest = next((found for found in parameters if found.kind is inspect.Parameter.VAR_POSITIONAL), None)
    others = next((found for found in parameters if found.kind is inspect.Parameter.VAR_KEYWORD), None)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for word in words:
        match = _KEYWORD.match(word)
        target = (named.get(match[1]) or others) if match else None
        if match and target is not None:
            keywords[match[1]] = convert(match[2], target.hint, match[1])
            continue
        at = len(positional)
        spot = by_position[at] if at < len(by_position) else rest
        if spot is None:
            most = len(by_position)
            raise WrongArguments(f"the function takes at most {most} argument{'s' * (most != 1)}: {word!r} is too many")
        positional.append(convert(word, spot.hint, spot.name))
    return positional, keywords


def from_json(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Arguments from JSON: a list is positional, an object is keywords."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise WrongArguments(f"--json-args is not JSON: {error}") from None
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict):
        return [], value
    raise WrongArguments("--json-args takes a list of positional arguments or an object of keyword arguments")


def convert(word: str, hint: Any, name: str = "argument") -> Any:
    """``word`` as ``hint`` wants it; WrongArguments that names the parameter if it can't be."""
    if isinstance(hint, str):
        hint = _NAMES.get(hint, Any)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(word, typing.get_args(hint), name)
    if origin is typing.Literal:
        return _convert_literal(word, typing.get_args(hint), name)
    if origin is typing.Annotated:
        return convert(word, typing.get_args(hint)[0], name)
    target = origin or hint
    try:
        return _convert_plain(word, target)
    except ValueError:
        wanted = getattr(target, "__name__", str(target))
        raise WrongArguments(f"{name}={word!r} can't be read as {wanted}") from None


def _convert_plain(word: str, target: Any) -> Any:
    if target is str:
        return word
    if target is bool:
        if word.lower() in TRUE | FALSE:
            return word.lower() in TRUE
        raise ValueError(word)
    if target in (int, float):
        return target(word)
    if target is bytes:
        return word.encode()
    if target is type(None):
        if word.lower() in ("none", "null"):
            return None
        raise ValueError(word)
    if target in (list, tuple, set, frozenset):
        value = json.loads(word)
        if not isinstance(value, list):
            raise ValueError(word)
        return target(value)
    if target is dict:
        value = json.loads(word)
        if not isinstance(value, dict):
            raise ValueError(word)
        return value
    try:
        value = json.loads(word)
    except ValueError:
        value = word
    return fleet.Event(data=value) if target is fleet.Event else value


def _convert_union(word: str, options: Sequence[Any], name: str) -> Any:
    # Text fits everything, so it comes last.
    for option in sorted(options, key=lambda option: (option is not type(None), option is str)):
        try:
            return convert(word, option, name)
        except WrongArguments:
            continue
    wanted = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise WrongArguments(f"{name}={word!r} can't be read as {wanted}")


def _convert_literal(word: str, options: Sequence[Any], name: str) -> Any:
    for option in options:
        if word == str(option):
            return option
    raise WrongArguments(f"{name}={word!r} is none of {', '.join(map(repr, options))}")
