"""The broker that ``fleet serve`` starts dies with it, however it dies; a foreign one is used only if it can do the job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from fleet._procfs import children_of, descendants_of
from fleet.protocol.errors import Refused
from fleet.protocol.limits import MESSAGE_BYTES_MAX
from fnplatform.broker import free_port, nats_server_path
from fnplatform.serve import serve
from fnplatform.settings import ServeSettings
from tests.integration.processes import all_end

LIMIT_S = 60.0
FLEET = (sys.executable, "-P", "-m", "fleet.cli.main")


@contextmanager
def serving(data: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A ready ``fleet serve`` with a broker of its own."""
    process = subprocess.Popen(
        [*FLEET, "serve", "--no-http", "--data", str(data), "--port", "0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("control plane ready at nats://127.0.0.1:"), line
        yield process
    finally:
        process.kill()
        process.communicate()


def broker_of(pid: int) -> int:
    servers = [child for child in children_of(pid) if Path(f"/proc/{child}/comm").read_text().strip() == "nats-server"]
    assert len(servers) == 1, servers
    return servers[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_broker_never_outlives_a_killed_serve(tmp_path: Path, frozen: bool) -> None:
    with serving(tmp_path) as process:
        pids = descendants_of(process.pid)
        broker = broker_of(process.pid)
        if frozen:
            os.kill(broker, signal.SIGSTOP)
        process.kill()
        process.wait(LIMIT_S)
        left = all_end(pids, 10.0)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []


def test_serve_ends_in_order_and_starts_again_on_its_data(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(tmp_path) as process:
            pids = descendants_of(process.pid)
            process.terminate()
            out, said = process.communicate(timeout=LIMIT_S)
            assert (process.returncode, out) == (0, ""), said
            assert all_end(pids, 0.0) == []


def test_two_serves_of_one_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve_fails("--data", str(tmp_path), "--port", str(port))
    assert done.startswith(f"error: port {port} "), done
    assert "--port" in done


def serve_fails(*words: str) -> str:
    """What ``fleet serve`` says when it can't start: one sentence and a hint, within a time that people wait."""
    done = subprocess.run(
        [*FLEET, "serve", "--no-http", *words], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: "), done.stderr
    return done.stderr


@contextmanager
def foreign(folder: Path, config: str) -> Iterator[str]:
    """A nats-server that isn't ours, with this configuration; its URL."""
    port = free_port()
    path = folder / "foreign.conf"
    path.write_text(f'listen: "127.0.0.1:{port}"\n{config}\n')
    server = subprocess.Popen(
        [nats_server_path(), "-c", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def jetstream(folder: Path, limits: str = "") -> str:
    return f"jetstream {{\n store_dir: {json.dumps(str(folder / 'js'))}\n {limits}\n}}"


def test_a_foreign_broker_without_jetstream(tmp_path: Path) -> None:
    """In this process, with less patience: a broker that was just restarted answers before its JetStream does."""
    with foreign(tmp_path, f"max_payload: {MESSAGE_BYTES_MAX}") as url, pytest.raises(Refused) as caught:
        anyio.run(lambda: serve(ServeSettings(nats_url=url, connect_s=1.0), stop=anyio.Event()))
    assert "no JetStream" in caught.value.message
    assert "enable jetstream" in caught.value.hint


def test_a_foreign_broker_of_small_messages(tmp_path: Path) -> None:
    with foreign(tmp_path, jetstream(tmp_path)) as url:
        said = serve_fails("--nats", url)
    assert "messages of 1048576 bytes" in said and f"max_payload: {MESSAGE_BYTES_MAX}" in said, said


def test_a_foreign_broker_with_too_little_room(tmp_path: Path) -> None:
    config = f"max_payload: {MESSAGE_BYTES_MAX}\n{jetstream(tmp_path, 'max_file_store: 100MB')}"
    with foreign(tmp_path, config) as url:
        said = serve_fails("--nats", url)
    assert "can't hold the platform's streams" in said and "JetStream limits" in said, said


def test_a_foreign_broker_that_wants_credentials(tmp_path: Path) -> None:
    config = f"{jetstream(tmp_path)}\nauthorization {{ user: a, password: b }}"
    with foreign(tmp_path, config) as url:
        said = serve_fails("--nats", url)
    assert "refused the credentials" in said, said


def test_a_foreign_broker_that_is_too_old() -> None:
    """No binary of an old server can be had here: what it says first is enough for the check."""
    info = {"server_id": "x", "version": "2.10.29", "proto": 1, "headers": True, "jetstream": True,
            "max_payload": MESSAGE_BYTES_MAX}  # fmt: skip
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=_speak_nats, args=(listener, json.dumps(info)), daemon=True).start()
        said = serve_fails("--nats", f"nats://127.0.0.1:{listener.getsockname()[1]}")
    assert "nats-server 2.10.29, 2.14.3 is needed" in said, said


def _speak_nats(listener: socket.socket, info: str) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_pong, args=(connection, info), daemon=True).start()


def _pong(connection: socket.socket, info: str) -> None:
    with connection:
        connection.sendall(f"INFO {info}\r\n".encode())
        while data := connection.recv(65536):
            connection.sendall(b"PONG\r\n" * data.count(b"PING\r\n"))


def test_a_foreign_broker_serves_when_it_can(tmp_path: Path) -> None:
    config = f"max_payload: {MESSAGE_BYTES_MAX}\n{jetstream(tmp_path)}"
    with foreign(tmp_path, config) as url:
        process = subprocess.Popen(
            [*FLEET, "serve", "--no-http", "--nats", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            said = [process.stderr.readline(), process.stderr.readline()]
            assert "unverified" in said[0], said
            assert said[1].startswith("control plane ready"), said
            done = subprocess.run(
                [*FLEET, "--url", url, "status", "--json"], capture_output=True, text=True, timeout=LIMIT_S, check=True
            )
            assert json.loads(done.stdout)["durability"].startswith("unverified")
        finally:
            process.terminate()
            process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
