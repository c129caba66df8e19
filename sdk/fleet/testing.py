"""A whole fleet for tests: ``LocalFleet``, and through ``testing_plugin`` the fixtures ``local_fleet``, ``shared_fleet``.

``fleet dev`` runs as a child process on a free port; what tests do to it is done for real: signals to processes, simulated
signals to cars. Every method returns once its effect is confirmed, or raises FleetUnavailable that says what was awaited.
No process is left behind: not after ``stop``, and not when the test process is killed.

Linux only (it reads /proc). Not for production.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import anyio.to_thread
from anyio.from_thread import start_blocking_portal

from fleet import _lifeline
from fleet._api import Api
from fleet._local_processes import EFFECT_S, LocalCar, LocalGateway, LocalProcess
from fleet._procfs import descendants_of
from fleet.cli.ask import connected
from fleet.protocol.errors import FleetError, FleetUnavailable
from fleet.protocol.messages import PlatformReply, PlatformRequest, Reply
from fleet.protocol.subjects import ApiVerb

READY_PREFIX = "fleet ready "
START_S = 240.0
"""The first start on a machine builds the guest image."""
STOP_S = 15.0
POLL_S = 0.01
STDERR_LINES = 40
R = TypeVar("R", bound=Reply)
T = TypeVar("T")


@contextmanager
def _pointed_at(url: str) -> Iterator[None]:
    """FLEET_URL is ``url`` for the length of a ``with``; the SDK connects there anew, and afterwards back."""
    before = os.environ.get("FLEET_URL")
    os.environ["FLEET_URL"] = url
    _forget_client()
    try:
        yield
    finally:
        if before is None:
            del os.environ["FLEET_URL"]
        else:
            os.environ["FLEET_URL"] = before
        _forget_client()


def _forget_client() -> None:
    from fleet import _client

    _client.disconnect()


def _kill_quietly(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended by itself
        pass


class LocalFleet:
    """Broker, control plane and ``cars`` cars of ``slots`` slots, for the length of a ``with`` (or ``async with``).

    Meanwhile FLEET_URL names it, so that functions called remotely run on it. ``data``: folder that outlives it; default:
    a temporary one. ``lanes``, ``trace``, ``speed``, ``sync``: as for ``fleet dev``. ``http``: with the HTTP gateway, at
    ``http_url``. ``environment``: added to that of its processes.
    """

    def __init__(
        self,
        cars: int = 2,
        slots: int = 1,
        data: str | os.PathLike[str] | None = None,
        *,
        lanes: Sequence[str] | None = None,
        trace: str | os.PathLike[str] | None = None,
        speed: float = 1.0,
        sync: str = "default",
        http: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.cars = [LocalCar(self, f"car-{number + 1}") for number in range(cars)]
        self.control = LocalProcess(self, "control")
        self.broker = LocalProcess(self, "broker")
        self.gateway = LocalGateway(self, "gateway")
        self.url = ""
        self._command = ["dev", "--port", "0", "--cars", str(cars), "--slots", str(slots), "--sync", sync]
        self._command += ["--http-port", "0"] if http else ["--no-http"]
        self._command += ["--lanes", ",".join(lanes)] if lanes is not None else []
        self._command += ["--trace", str(trace), "--speed", f"{speed:g}"] if trace is not None else []
        self._given_data = None if data is None else Path(data).absolute()
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()
        self._api: Api | None = None

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def http_url(self) -> str:
        """Where its HTTP gateway listens; FleetUnavailable if it was started without one."""
        url: str = self.state().get("http_url", "")
        if not url:
            raise FleetUnavailable("this fleet has no HTTP gateway", hint="start it with LocalFleet(http=True)")
        return url

    def start(self) -> None:
        """Start it and wait until a first call would succeed; FleetUnavailable with its last words if it can't."""
        assert self._process is None, "started twice"
        with ExitStack() as stack:  # undone at once if the start fails
            if self._given_data is None:
                self.data = Path(tempfile.mkdtemp(prefix="fleet-test-"))
                stack.callback(shutil.rmtree, self.data, ignore_errors=True)
            else:
                self.data = self._given_data
                self.data.mkdir(parents=True, exist_ok=True)
            stack.callback(self._end_process)
            self._spawn()
            self.url = self._await_ready()
            portal = stack.enter_context(start_blocking_portal())
            self._call = portal.call
            self._api = stack.enter_context(portal.wrap_async_context_manager(connected(self.url)))
            stack.enter_context(_pointed_at(self.url))
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """End it; returns when no process is left. Safe to call twice."""
        self._api = None
        self._stack.close()

    def __enter__(self) -> LocalFleet:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> LocalFleet:
        await anyio.to_thread.run_sync(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await anyio.to_thread.run_sync(self.stop)

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, verb: ApiVerb, request: Any, reply: type[R]) -> R:
        """One request to the platform; the FleetError it answers is raised."""
        assert self._api is not None, "not started"
        answer, _ = self._call(self._api.ask, verb, request, reply)
        return answer

    def platform(self) -> PlatformReply:
        """What ``fleet status`` shows."""
        return self.ask(ApiVerb.PLATFORM, PlatformRequest(), PlatformReply)

    def state(self) -> dict[str, Any]:
        """``dev.json``: ``url``, ``http_url``, ``ready``, ``supervisor``, and by name ``pids`` and ``starts``."""
        found: dict[str, Any] = json.loads((self.data / "dev.json").read_text())
        return found

    def pids(self) -> list[int]:
        """Every process of it that runs now: supervisor, broker, control plane, cars, slots."""
        return descendants_of(self.pid)

    def stderr(self, lines: int = STDERR_LINES) -> str:
        """The last lines that its processes wrote."""
        path = self.data / "stderr.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def wait_for(self, check: Callable[[], T | None], what: str, timeout_s: float = EFFECT_S) -> T:
        """The first true value of ``check``; FleetUnavailable names ``what``. Errors of the platform mean "not yet"."""
        limit_s = time.monotonic() + timeout_s
        last = ""
        while True:
            try:
                if found := check():
                    return found
            except (FleetError, FileNotFoundError, ProcessLookupError) as error:
                last = f" ({error})"
            if self._process is None or self._process.poll() is not None:
                raise FleetUnavailable(f"the fleet ended while waiting for {what}:\n{self.stderr()}", hint="")
            if time.monotonic() > limit_s:
                raise FleetUnavailable(f"waited {timeout_s:.0f} s for {what}{last}\n{self.stderr()}", hint="")
            time.sleep(POLL_S)

    # --- the process -------------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        # No death signal: it would follow the thread that starts this, which may be a short-lived one.
        env = _lifeline.environment({**os.environ, **self._environment}, death_signal=False)
        with (self.data / "stderr.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fleet.cli.main", *self._command, "--data", str(self.data)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True,
            )  # fmt: skip

    def _await_ready(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        limit_s = time.monotonic() + START_S
        said = b""
        while not said.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, limit_s - time.monotonic()))[0]:
                raise FleetUnavailable(f"no local fleet within {START_S:.0f} s:\n{self.stderr()}", hint="")
            chunk = os.read(self._process.stdout.fileno(), 4096)
            if not chunk:
                raise FleetUnavailable(f"the local fleet could not start:\n{self.stderr()}", hint="")
            said += chunk
        line = said.decode().strip()
        assert line.startswith(READY_PREFIX), line
        return line.removeprefix(READY_PREFIX)

    def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        left = descendants_of(process.pid)
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in left:
                _kill_quietly(pid)
            process.wait(STOP_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
