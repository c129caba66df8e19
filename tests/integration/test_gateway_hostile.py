"""What nobody should send: slow, huge, broken. The gateway answers, or hangs up, and goes on serving others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from fleet.testing import LocalFleet
from fnplatform.gateway import bounds
from tests.integration.gateway_rig import FUNCTIONS, LIMIT_S, deploy


@pytest.fixture(scope="module")
def url(shared_fleet: LocalFleet) -> str:
    deploy(FUNCTIONS, "web")
    return shared_fleet.http_url


@pytest.fixture
def wire(url: str) -> Iterator[socket.socket]:
    """A bare connection."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=LIMIT_S) as sock:
        yield sock
    assert httpx.get(f"{url}/healthz").status_code == 200, "others are served as before"


def answer_of(sock: socket.socket) -> bytes:
    """What comes until the connection ends."""
    found = b""
    while True:
        try:
            chunk = sock.recv(65536)
        except ConnectionResetError:
            return found
        if not chunk:
            return found
        found += chunk


HEAD = b"POST /v1/apps/web/functions/add:call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("sent", [
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"x" * bounds.HEADER_BYTES_MAX + b"\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: x\r\n" * (bounds.HEADER_BYTES_MAX // 11) + b"\r\n\r\n",
    b"GET /" + b"x" * bounds.HEADER_BYTES_MAX + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nX-Endless: " + b"x" * (4 * bounds.HEADER_BYTES_MAX),
])  # fmt: skip
def test_huge_headers_are_refused(wire: socket.socket, sent: bytes) -> None:
    try:
        wire.sendall(sent)
    except ConnectionError:
        pass  # refused before it was all sent
    assert answer_of(wire).startswith(b"HTTP/1.1 431 "), sent[:60]


@pytest.mark.parametrize("sent", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
])  # fmt: skip
def test_what_is_no_http_is_refused(wire: socket.socket, sent: bytes) -> None:
    wire.sendall(sent)
    got = answer_of(wire)
    assert got.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in got, got


def test_requests_behind_each_other_are_all_answered(wire: socket.socket) -> None:
    body = b'{"x": 1}'
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    wire.sendall(one * 3 + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    got = answer_of(wire)
    assert got.count(b"HTTP/1.1 200 OK") == 4 and got.endswith(b"ok\n")


def test_a_body_that_ends_early_runs_nothing(wire: socket.socket) -> None:
    wire.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    wire.shutdown(socket.SHUT_WR)
    assert b"200 OK" not in answer_of(wire)
