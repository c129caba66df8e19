"""Where the weights of ``params=`` go in a call: into the parameter called ``params`` if there is one, else the first.

It is no part of the signature that callers see. Standard library only: jax is needed once weights are.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fleet.protocol.errors import DeployError, InvalidOption

NAME = "params"
_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def place_of(raw: Callable[..., Any]) -> tuple[int, inspect.Parameter]:
    """Number and parameter that take the weights; InvalidOption if the function has none."""
    try:
        parameters = list(inspect.signature(raw).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    takes = [(number, one) for number, one in enumerate(parameters) if one.kind in _KINDS]
    if not takes:
        name = getattr(raw, "__qualname__", None) or repr(raw)
        raise InvalidOption(
            f"{name}() has no parameter that takes the weights of params=",
            hint="give it one in front: def embed(params, tokens): ...",
        )
    return next(((number, one) for number, one in takes if one.name == NAME), takes[0])


def signature(raw: Callable[..., Any]) -> inspect.Signature:
    """The signature of calls: that of ``raw`` without the parameter for the weights."""
    number, _ = place_of(raw)
    whole = inspect.signature(raw)
    parameters = list(whole.parameters.values())
    del parameters[number]
    return inspect.Signature(parameters, return_annotation=whole.return_annotation)


def inject(
    raw: Callable[..., Any], tree: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for ``raw``: those of a call, with the weights ``tree`` in their place."""
    number, parameter = place_of(raw)
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY and len(args) >= number:
        return (*args[:number], tree, *args[number:]), dict(kwargs)
    return args, {**kwargs, parameter.name: tree}


def load(given: Any) -> Any:
    """The pytree that ``params=`` stands for, loaded once per process; DeployError where that fails."""
    need_jax("params= is for jax")
    from fleet._jax import params

    return params.load(given)


def need_jax(why: str) -> None:
    """DeployError where jax isn't installed; ``why`` it is needed."""
    for package in ("jax", "flatbuffers"):
        _need(package, why, "pip install 'fnplatform[jax]'")


def need_arrays(why: str, dtypes: Iterable[str]) -> None:
    """DeployError where a package that has arrays of these dtypes isn't installed."""
    from fleet._jax.dtypes import ML

    _need("numpy", why, "pip install numpy")
    for added in ML.intersection(dtypes):
        _need("ml_dtypes", f"{why} of {added}", "pip install ml_dtypes")


def _need(package: str, why: str, hint: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise DeployError(f"{why}, and {package} is not installed here", hint=hint)
