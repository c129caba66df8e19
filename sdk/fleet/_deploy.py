"""Collect an app from a file or a module, and deploy it in one step."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import fleet
from fleet._app import App
from fleet._function import Function, collected
from fleet.protocol.errors import DeployError, FleetError
from fleet.protocol.ids import check_token

if TYPE_CHECKING:
    from fleet._client import Client
    from fleet._upload import Read
    from fleet.protocol.messages import DeployReply, Manifest, Trigger


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """An app as its file defines it: its name, and its functions in the order in which they stand there."""

    app: str
    functions: list[Function[..., Any]]


def load_app(source: str, app: str | None = None) -> LoadedApp:
    """Import ``source``, a file or a module's dotted name, and collect its functions.

    ``app`` overrides the name; without it all functions must belong to one app. Errors: DeployError for a file that is
    missing, fails to import, defines no function, two of one name, or functions of several apps.
    """
    made: list[Function[..., Any]] = []
    token = collected.set(made)
    try:
        module = _import(source)
    finally:
        collected.reset(token)
    functions = _own_functions(module, made)
    if not functions:
        raise DeployError(f"{source} defines no function for the fleet", hint="decorate one with @fleet.function")
    _refuse_doubles(source, functions)
    apps = sorted({function.app_name for function in functions})
    if app is None and len(apps) > 1:
        raise DeployError(
            f"{source} holds functions of several apps: {', '.join(apps)}", hint="name one with --app NAME"
        )
    return LoadedApp(check_token(app or apps[0], "app"), functions)


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy did; by the functions' names, to which packages each was locked (``name==version``), for those of the
    jax lane where they run (``cpu cuda tpu``), and what starts each."""

    reply: DeployReply
    packages: dict[str, list[str]]
    platforms: dict[str, str]
    triggers: dict[str, list[Trigger]]


def deploy(client: Client, loaded: LoadedApp, tell: Callable[[str], None] | None = None) -> Deployed:
    """Make the functions of ``loaded`` the whole of its app, in one step: either all are live then, or nothing changed.

    ``tell`` gets a line for each step that packages take which this machine doesn't know yet.
    """
    from fleet._triggers import check_routes, check_startable
    from fleet._upload import patience_s, upload
    from fleet.protocol.messages import DeployReply, DeployRequest
    from fleet.protocol.subjects import ApiVerb

    readers: dict[str, Read] = {}
    manifests: list[Manifest] = []
    platforms: dict[str, str] = {}
    for function in loaded.functions:
        check_startable(function)
    check_routes(loaded.functions)
    for function in loaded.functions:
        if function.options.runtime == "jax":
            manifest, read, platforms[function.name] = _traced(function, loaded.app)
        else:
            manifest, read = _bundled(function, loaded.app, tell)
        manifests.append(manifest)
        readers.update(dict.fromkeys(digests_of(manifest), read))
    request = DeployRequest(app=loaded.app, manifests=manifests)
    timeout_s = patience_s(manifests)

    async def work() -> DeployReply:
        reply, _ = await client.api.ask(ApiVerb.DEPLOY, request, DeployReply, timeout_s=timeout_s)
        await upload(client.blobs, reply.missing, lambda digest: readers[digest](digest), tell)
        if reply.missing:
            reply, _ = await client.api.ask(ApiVerb.DEPLOY, request, DeployReply, timeout_s=timeout_s)
        if reply.missing or reply.app_version is None:
            raise DeployError(f"the platform did not keep the code of {loaded.app}", hint="try again")
        return reply

    locked = {
        manifest.function: [f"{one.name}=={one.version}" for one in manifest.program.packages] for manifest in manifests
    }
    triggers = {manifest.function: manifest.triggers for manifest in manifests}
    return Deployed(client.run(work), locked, platforms, triggers)


def _bundled(function: Function[..., Any], app: str, tell: Callable[[str], None] | None) -> tuple[Manifest, Read]:
    """Manifest and code of a function that travels as source."""
    from fleet._register import code, describe

    manifest, bundle, packages = describe(function, app, tell)
    return manifest, functools.partial(code, bundle=bundle, packages=packages)


def _traced(function: Function[..., Any], app: str) -> tuple[Manifest, Read, str]:
    """Manifest, program and platforms of a jax function, of the shapes that its annotations give."""
    from fleet._prepare import programs_of
    from fleet._register import describe_traced

    traced = programs_of(function).for_deploy()
    return describe_traced(function, app, traced), traced.read, traced.platforms_text


def digests_of(manifest: Manifest) -> list[str]:
    """All code that a manifest names, and its weights."""
    program = manifest.program
    weights = program.jax.weights if program.jax is not None else []
    return [program.bundle, *(one.digest for one in program.packages), *(one.digest for one in weights)]


def _import(source: str) -> ModuleType:
    try:
        if source.endswith(".py") or os.sep in source or os.path.isfile(source):
            return _import_file(source)
        with _path_first(os.getcwd()):
            return importlib.import_module(source)
    except DeployError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
            raise DeployError(
                f"there is no file and no module {source!r}", hint="give a path or a dotted name"
            ) from None
        raise DeployError(f"{source} can't be imported: {error}", hint="install what it needs here as well") from error
    except FleetError as error:
        raise DeployError(f"{_place_of(error, source)}: {error.message}", hint=error.hint) from error
    except Exception as error:  # whatever the developer's file raises
        raise DeployError(f"{source} can't be imported: {type(error).__name__}: {error}") from error


def _place_of(error: FleetError, source: str) -> str:
    """The file and line of the developer's code that asked for what we refused."""
    ours = os.path.dirname(fleet.__file__) + os.sep
    place = source
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith((ours, "<")):
            place = f"{os.path.basename(file)}, line {line}"
    return place


def _import_file(source: str) -> ModuleType:
    file = os.path.abspath(source)
    if not os.path.isfile(file):
        raise DeployError(f"there is no file {source}", hint="give a path to a .py file, or a module's dotted name")
    root, name = _name_of(file)
    known = sys.modules.get(name)
    if known is not None and not _is_file(known, file):
        raise DeployError(f"{source} has the name of the module {name!r}, which is in use", hint="rename the file")
    with _path_first(root):
        if "." in name:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise DeployError(f"{source} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def _name_of(file: str) -> tuple[str, str]:
    """The folder to import from and the dotted name of a file, seen from outside its outermost package."""
    folder, stem = os.path.dirname(file), os.path.splitext(os.path.basename(file))[0]
    parts = [] if stem == "__init__" else [stem]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return folder, ".".join(parts) or "__init__"


def _is_file(module: ModuleType, file: str) -> bool:
    known = getattr(module, "__file__", None)
    return known is not None and os.path.exists(known) and os.path.samefile(known, file)


@contextlib.contextmanager
def _path_first(folder: str) -> Iterator[None]:
    """``folder`` first on sys.path, as for a script that is run there. It stays: functions may import later."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    yield


def _own_functions(module: ModuleType, made: list[Function[..., Any]]) -> list[Function[..., Any]]:
    """What this module made, and what its App objects were given elsewhere; copies of one function count once."""
    apps = {value.name for value in vars(module).values() if isinstance(value, App)}
    found = [one for one in vars(module).values() if isinstance(one, Function) and one._raw is not None]
    seen: dict[int, Function[..., Any]] = {}
    named = {id(one) for one in found}
    for one in [*made, *found]:
        own = getattr(one._raw, "__module__", None) == module.__name__
        if (own or id(one) in named or one._app in apps) and not _is_copy(one, named, made):
            seen.setdefault(id(one), one)
    return list(seen.values())


def _is_copy(function: Function[..., Any], named: set[int], made: list[Function[..., Any]]) -> bool:
    """A ``with_options`` copy that no name of the module holds, such as one made inside another function."""
    first = next((one for one in made if one._raw is function._raw), function)
    return function is not first and id(function) not in named


def _refuse_doubles(source: str, functions: list[Function[..., Any]]) -> None:
    count = Counter(function.name for function in functions)
    double = next((name for name, times in count.items() if times > 1), None)
    if double is not None:
        raise DeployError(
            f"{source} defines two functions of the name {double!r}",
            hint="rename one, or give it a name with @fleet.function(name=...)",
        )
