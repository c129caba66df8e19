"""The decorator and what it makes: a typed function that runs here, or on a car.

Standard library only, and light: scripts import this in the wasm guest too. Whatever talks to the platform is imported
when it is first used.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from fleet import _context, _generators, _keep, _names, _params, _ref
from fleet._verbs import ForEach, Map, Remote, Spawn, SpawnMap
from fleet.protocol.errors import InvalidOption, NotDeployed, WrongArguments
from fleet.protocol.ids import check_token, token_of
from fleet.protocol.options import FunctionOptions, Options, PlainOptions

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

collected: contextvars.ContextVar[list[Function[..., Any]] | None] = contextvars.ContextVar("collected", default=None)
"""While a file is loaded for a deploy: every function made, so that two of one name are noticed."""


class MethodRefused:
    """What type checkers see in place of a decorated method of an instance: it can't be sent, having no self there.

    Make it a function beside the class that takes the instance as an argument.
    """


class Function(Generic[P, R]):
    """A function that runs here when called, and on a car through ``remote``, ``spawn``, ``map`` and their kin."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, R]
    __signature__: inspect.Signature
    """That of calls, where it isn't that of the wrapped function: weights aren't given by callers."""

    def __init__(self, raw: Callable[P, R] | None, options: Options, app: str | None, ref: _Ref | None = None) -> None:
        self._raw = raw
        self._app = app
        self._ref = ref
        if options.runtime == "jax":
            _refuse_suspending(raw)
        self.options = options
        self.yields = _generators.is_generator(raw)
        self.traced: dict[Any, Any] = {}
        """Jax: its programs (``_jax.program``), shared by its copies."""
        if raw is not None:
            functools.update_wrapper(cast(Any, self), raw)
            if options.params is not None:
                self.__signature__ = _params.signature(raw)
            made = collected.get()
            if made is not None:
                made.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._raw is None:
            raise NotDeployed(
                f"{self.app_name}.{self.name} was found by name, its source is not here", hint="call it with .remote()"
            )
        if _context.installed() is not None:
            return self._raw(*args, **kwargs)
        given, named = _ref.values_of(args, kwargs)
        if self.options.params is not None:
            given, named = _params.inject(self._raw, self.params, given, named)
        token = _context.enter_local()
        try:
            jax = self.options.runtime == "jax"
            value = _keep.local_call(self._raw, given, named) if jax else self._raw(*given, **named)
        finally:
            _context.leave_local(token)
        return cast(R, _generators.in_local_call(value)) if self.yields else value

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it right here, as calling it does."""
        return self(*args, **kwargs)

    @functools.cached_property
    def remote(self) -> Remote[P, R]:
        """Runs on a car, blocks, returns the value or raises what the function raised."""
        return Remote(self)

    @functools.cached_property
    def spawn(self) -> Spawn[P, R]:
        """Runs on a car; a ``fleet.Call`` at once."""
        return Spawn(self)

    @functools.cached_property
    def map(self) -> Map[R]:
        """Runs for each input (several iterables are zipped), lazily, bounded in flight."""
        return Map(self, star=False)

    @functools.cached_property
    def starmap(self) -> Map[R]:
        """As ``map``, over one iterable of argument tuples."""
        return Map(self, star=True)

    @functools.cached_property
    def for_each(self) -> ForEach:
        """As ``map``, for the side effects alone."""
        return ForEach(self)

    @functools.cached_property
    def spawn_map(self) -> SpawnMap[R]:
        """As ``map``, but handed over whole: a ``fleet.CallGroup`` to ask later."""
        return SpawnMap(self)

    remote_gen = _generators.RemoteGenOf()
    """Runs a generator function on a car and iterates what it yields, as it yields."""

    @property
    def params(self) -> Any:
        """The weights of ``params=`` as a pytree, loaded once per process. InvalidOption where it has none."""
        if self.options.params is None:
            raise InvalidOption(f"{self.display_name} has no params=", hint="give it the weights with params=")
        return _params.load(self.options.params)

    def with_options(self, **options: Unpack[FunctionOptions]) -> Function[P, R]:
        """A copy with ``options`` changed; InvalidOption names what is allowed."""
        if self._raw is None:
            raise InvalidOption(
                "a function found by name runs with the options it was deployed with",
                hint="change them where it is defined and deploy again",
            )
        copy = type(self)(self._raw, self.options.changed(options), self._app)
        copy.traced = self.traced
        return copy

    @classmethod
    def from_name(cls, app: str, function: str, version: str | None = None) -> Function[..., Any]:
        """A deployed function, without its source: checked when it is first called (NotDeployed)."""
        if version is not None:
            _check_version(version)
        ref = _Ref(check_token(app, "app"), token_of(function), version)
        return Function(None, Options(), ref.app, ref)

    @property
    def name(self) -> str:
        """The token it is deployed under: ``name=``, else made from its qualified name; a lambda's from its variable."""
        if self._ref is not None:
            return self._ref.function
        if self.options.name:
            return self.options.name
        return _names.token(self._raw, lambda value: isinstance(value, Function) and value._raw is self._raw)

    @property
    def display_name(self) -> str:
        """Its qualified name, as Python spells it."""
        return self._ref.function if self._ref is not None else _names.display_name(self._raw)

    @property
    def app_name(self) -> str:
        """The app it belongs to: its App's, else FLEET_APP, else the name of its file."""
        if self._app is not None:
            return self._app
        from fleet._app import default_app_name

        return default_app_name(_names.module_name(self._raw))

    @functools.cached_property
    def _checker(self) -> Callable[..., None] | None:
        """A function with this signature and an empty body: calling it words errors just as Python does."""
        return None if self._raw is None else _make_checker(self._call_signature(), self.display_name)

    def _call_signature(self) -> inspect.Signature | None:
        """What calls take; None where that isn't known (builtins)."""
        if "__signature__" in self.__dict__:
            return self.__signature__
        try:
            return inspect.signature(cast(Any, self._raw), follow_wrapped=False)
        except (TypeError, ValueError):
            return None

    def check_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """WrongArguments, in Python's words, when the signature doesn't take these."""
        if self._checker is None:
            return
        try:
            self._checker(*args, **kwargs)
        except TypeError as error:
            hint = f"its signature is {self.display_name}{inspect.signature(self)}"
            raise WrongArguments(str(error), hint=hint) from None

    def __repr__(self) -> str:
        return f"<fleet.Function {self.display_name}>"

    # A method has no self on a car: where the first parameter takes the instance that it is reached through, pyright sees
    # something without ``remote`` (mypy asks for a ``self`` argument). A ParamSpec instead of ``...`` would make mypy refuse
    # Functions that instances hold. When it runs it stays itself: classes may be namespaces of functions.
    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self: Function[Concatenate[S, ...], Any], instance: S, owner: type) -> MethodRefused: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Self: ...
    def __get__(self, instance: object, owner: type) -> Any:
        return self

    def __reduce__(self) -> Any:
        if self._ref is not None:
            return (Function.from_name, (self._ref.app, self._ref.function, self._ref.version))
        return self.display_name


class AsyncFunction(Function[P, R]):
    """A Function made of an ``async def``: calling it gives the coroutine, ``remote`` the awaited value."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        coroutine = cast("Coroutine[Any, Any, R]", super().__call__(*args, **kwargs))
        return coroutine if _context.installed() is not None else _in_local_call(coroutine)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """The coroutine, to be awaited here."""
        return self(*args, **kwargs)


async def _in_local_call(coroutine: Coroutine[Any, Any, R]) -> R:
    token = _context.enter_local()
    try:
        return await coroutine
    finally:
        _context.leave_local(token)


class _Ref:
    """Where a function found by name lies."""

    __slots__ = ("app", "function", "version")

    def __init__(self, app: str, function: str, version: str | None) -> None:
        self.app = app
        self.function = function
        self.version = version


def _check_version(text: str) -> None:
    if not re.fullmatch("[0-9a-f]{16}", text):
        raise InvalidOption(
            f"version {text!r} is not allowed: a function's version is 16 hex digits", hint="see fleet list APP"
        )


class Decorator(Protocol):
    """What ``fleet.function(...)`` with options returns."""

    @overload
    def __call__(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFunction[P, R]: ...
    @overload
    def __call__(self, raw: Callable[P, R], /) -> Function[P, R]: ...


class ParamsDecorator(Protocol):
    """What ``fleet.function(params=...)`` returns: callers don't give the first parameter, which takes the weights."""

    def __call__(self, raw: Callable[Concatenate[Any, P], R], /) -> Function[P, R]: ...


def decorate(raw: Callable[..., Any] | None, app: str | None, given: dict[str, Any]) -> Any:
    """The Function of ``raw``, or a decorator that makes it; options are checked right away (InvalidOption)."""
    options = Options().changed(given)
    if raw is not None:
        return _make(raw, app, options)
    return lambda later: _make(later, app, options)


def _make(raw: Any, app: str | None, options: Options) -> Function[..., Any]:
    if isinstance(raw, Function):
        raise InvalidOption(f"{raw.display_name} is a fleet.Function already", hint="use .with_options(...)")
    if isinstance(raw, type) or not callable(raw):
        raise InvalidOption(f"fleet.function takes a function, not {raw!r}")
    kind = AsyncFunction if inspect.iscoroutinefunction(raw) else Function
    return kind(raw, options, app)


def _refuse_suspending(raw: Any) -> None:
    """InvalidOption for what a traced function can't be."""
    what = "an async def" if inspect.iscoroutinefunction(raw) else "a generator function"
    if inspect.iscoroutinefunction(raw) or _generators.is_generator(raw):
        raise InvalidOption(
            f'{_names.display_name(raw)} is {what}: runtime="jax" traces a function once, from its arguments to its result',
            hint='write it as a plain function, with jax.lax.scan for what comes step by step; or use runtime="wasm"',
        )


def _make_checker(signature: inspect.Signature | None, display_name: str) -> Callable[..., None] | None:
    if signature is None:  # The car will tell.
        return None
    # Built from bare names: no annotation and no default of the developer is evaluated here.
    bare = [
        parameter.replace(
            annotation=inspect.Parameter.empty,
            default=parameter.default if parameter.default is inspect.Parameter.empty else None,
        )
        for parameter in signature.parameters.values()
    ]
    namespace: dict[str, Any] = {}
    exec(f"def checker{inspect.Signature(bare)}: pass", namespace)
    checker = cast("Callable[..., None]", namespace["checker"])
    checker.__qualname__ = display_name
    return checker


@overload
def function(raw: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFunction[P, R]: ...
@overload
def function(raw: Callable[P, R], /) -> Function[P, R]: ...
@overload
def function(*, params: object, **options: Unpack[PlainOptions]) -> ParamsDecorator: ...
@overload
def function(**options: Unpack[PlainOptions]) -> Decorator: ...
def function(raw: Callable[..., Any] | None = None, /, **options: Unpack[FunctionOptions]) -> Any:
    """Make a function runnable on parked cars; bare (``@fleet.function``) or with options.

    ``memory`` ("256MiB" or bytes), ``timeout`` (seconds of execution, per attempt), ``queue_timeout`` (seconds it may
    wait for a car; None: no limit), ``retries`` (``fleet.Retries`` or how often to try again; for errors of the function
    only), ``requires`` (``fleet.Requires``), ``isolation`` ("instance": one warm sandbox per function, "call": fresh for
    every call), ``max_concurrency`` (over the whole fleet), ``result_ttl`` ("7d"), ``include`` and ``exclude`` (file
    patterns of the bundle), ``name``. Options out of range raise InvalidOption right here.

    ``runtime="jax"``: the function is traced here and runs on cars as a compiled program. ``params`` are its weights, a
    pytree of arrays or a callable that loads one; its parameter called ``params``, else its first, takes them, and callers
    don't give it. ``batch``: ``fleet.Batch``.

    ``on`` names what starts it by itself once it is deployed: ``fleet.cron``, ``fleet.every``, ``fleet.at``,
    ``fleet.subject``, ``fleet.http``. It gets a ``fleet.Event`` then (a list of them with ``batch=``), or nothing if it
    takes no argument. Deployed functions alone are started so: ``fleet run``, and ``.remote()`` of a function that was never
    deployed, ignore ``on``. Call it with an event made by hand to test it: ``f(fleet.Event("sensors.7", {"t": 31}))``.

    Any callable with a name will do: lambdas, closures, partials, bound methods, functions of a script, a command or a
    notebook cell. What one that no module holds refers to (globals, variables around it, classes) is captured with its first
    remote call.
    """
    return decorate(raw, None, dict(options))
