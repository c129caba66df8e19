"""The gateway as a process: listens, answers, drains.

Start:    the port is bound before anything is said; ready when the broker was reached once, or after CONNECT_S all the
          same: then ``/readyz`` tells.
Shutdown: on SIGTERM or SIGINT nothing new is accepted, streams and long polls end, the rest is answered for DRAIN_S. Calls
          go on without us. Killed at any point, nothing is lost: nothing is kept here.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import uvicorn

from fleet.protocol.errors import Refused
from fleet.protocol.limits import CONNECT_S
from fnplatform.gateway.app import make_app
from fnplatform.gateway.bounds import DRAIN_S, KEEP_ALIVE_S
from fnplatform.gateway.core import Gateway, GatewaySettings
from fnplatform.gateway.guarded import GuardedProtocol
from fnplatform.gateway.tenants import Pool

log = logging.getLogger("fleet.gateway")
BACKLOG = 1024
READY_POLL_S = 0.05


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are heard by ``run``."""
        yield


def listening(host: str, port: int) -> socket.socket:
    """A socket at ``host``:``port`` (0: a free one); Refused if it is in use."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        raise Refused(
            f"port {port} on {host} can't be used for HTTP: {error.strerror}",
            hint="choose another: --port 0 is a free one",
        ) from None
    sock.setblocking(False)
    return sock


def url_of(sock: socket.socket) -> str:
    """Where it listens, for clients on this machine."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def run(settings: GatewaySettings) -> None:
    """Answer HTTP until SIGTERM or SIGINT (main thread only); Refused if the port can't be used."""
    sock = listening(settings.host, settings.port)
    async with anyio.create_task_group() as group:
        pool = Pool(settings.nats_url, settings.creds, group)
        gateway = Gateway(settings, pool)
        config = uvicorn.Config(
            make_app(gateway), http=GuardedProtocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
            access_log=False, server_header=False, proxy_headers=False, timeout_keep_alive=int(KEEP_ALIVE_S),
            timeout_graceful_shutdown=int(DRAIN_S), backlog=BACKLOG,
        )  # fmt: skip
        server = _Server(config)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

            async def hear() -> None:
                async for _ in signals:
                    gateway.stopping.set()
                    server.should_exit = True

            group.start_soon(hear)
            group.start_soon(_say_ready, gateway, url_of(sock))
            await server.serve(sockets=[sock])
            await pool.close()
            group.cancel_scope.cancel()


async def _say_ready(gateway: Gateway, url: str) -> None:
    with anyio.move_on_after(CONNECT_S):
        while not await gateway.is_ready():
            await anyio.sleep(READY_POLL_S)
    print(f"gateway ready at {url}", file=sys.stderr, flush=True)
