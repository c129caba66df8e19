"""The gateway as a child process of ``fleet dev`` and ``fleet serve``: its command line, its port, whether it answers.

Nothing of the web framework is imported here: it lives in the child.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import anyio
import anyio.abc

from fleet.protocol.errors import InvalidOption, Refused
from fnplatform.gateway.bounds import DRAIN_S, PORT_DEFAULT
from fnplatform.supervisor import BACKOFF_S_MIN, Running, backoff_s, send, spawn

FLEET = (sys.executable, "-P", "-m", "fleet.cli.main")
ANSWER_S = 1.0


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """Where HTTP is spoken. ``port`` None: PORT_DEFAULT, or a free one where that is taken; 0: a free one."""

    host: str = "127.0.0.1"
    port: int | None = None
    open_to_all: bool = False
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port <= 65535:
            raise InvalidOption(f"--http-port {self.port} is not allowed: 0 (a free one) to 65535")


def choose_port(settings: HttpSettings) -> int:
    """A port that can be listened on right now, as the settings say; Refused if there is none."""
    if settings.port is None:
        try:
            return _probed(settings.host, PORT_DEFAULT)
        except OSError:
            pass
    try:
        return _probed(settings.host, settings.port or 0)
    except OSError as error:
        raise Refused(
            f"port {settings.port or 0} on {settings.host} can't be used for HTTP: {error.strerror}",
            hint="choose another with --http-port (0: a free one), or leave HTTP out with --no-http",
        ) from None


def _probed(host: str, port: int) -> int:
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, kind, proto)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()
        return int(probe.getsockname()[1])


def url_at(settings: HttpSettings, port: int) -> str:
    """The URL for clients on this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def command(settings: HttpSettings, nats_url: str, port: int) -> list[str]:
    """The command line of the child."""
    words = [*FLEET, "gateway", "--nats", nats_url, "--host", settings.host, "--port", str(port)]
    words.append("--open" if settings.open_to_all else "--tokens")
    for origin in settings.origins:
        words += ["--cors-origin", origin]
    return words


async def answers(url: str) -> bool:
    """Whether the gateway at ``url`` is ready for calls."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with anyio.move_on_after(ANSWER_S):
        try:
            async with await anyio.connect_tcp(host.strip("[]"), int(port)) as stream:
                await stream.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False
    return False


@asynccontextmanager
async def kept(settings: HttpSettings | None, nats_url: str, port: int) -> AsyncIterator[None]:
    """A gateway for the length of a ``with``: started again when it dies, ended in order (main thread only)."""
    if settings is None:
        yield
        return
    running: list[Running] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_keep, command(settings, nats_url, port), running)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for process in running:
                    await _end(process)


async def _keep(words: list[str], running: list[Running]) -> None:
    pause_s = 0.0
    while True:
        began_s = anyio.current_time()
        with anyio.CancelScope(shield=True):  # A child that is started must be known.
            running[:] = [await spawn(words)]
        code = await running[0].wait()
        running.clear()
        pause_s = backoff_s(max(pause_s, BACKOFF_S_MIN), anyio.current_time() - began_s)
        print(f"the gateway ended with {code}; starting it again in {pause_s:.1f} s", file=sys.stderr, flush=True)
        await anyio.sleep(pause_s)


async def _end(process: Running) -> None:
    send(process, signal.SIGTERM)
    with anyio.move_on_after(DRAIN_S + 0.5):
        await process.wait()
        return
    send(process, signal.SIGKILL)
    await process.wait()
