"""Every limit of the HTTP gateway, in one place.

Units are in the names: ``*_s`` seconds, ``*_bytes`` bytes. Limits that others share are in ``fleet.protocol.limits``.
"""

from __future__ import annotations

from fleet.protocol.limits import HTTP_BODY_BYTES_MAX, KIB, MIB

PORT_DEFAULT = 4280
HEADER_BYTES_MAX = 32 * KIB
"""Request line and headers together; more is answered 431."""
HEADER_S = 10.0
"""A connection that begins a request must have sent all its headers within this, and must begin one within it."""
BODY_S = 30.0
"""And its body within this; 408 afterwards."""
KEEP_ALIVE_S = 30.0
REQUESTS_MAX = 1000
"""Requests that are open at once, streams and long polls included; more are answered 503."""
CONNECTIONS_MAX = 2000
"""Connections, idle ones included; more are closed at once."""
STREAMS_MAX = 400
"""Of these, server-sent events."""
TENANTS_MAX = 64
"""Tenants with a connection to the broker at once."""
CONNECTING_MAX = 4

JSON_SMALL_BYTES = 32 * KIB
"""Bodies and results up to this size are read and written in the loop, larger ones in a thread beside it."""
RESULT_BYTES_MAX = 32 * MIB
"""A larger result is refused here: the SDK and the CLI can have it."""
SCHEMAS_MAX = 1000
SCHEMA_ERRORS_MAX = 20
IDEMPOTENCY_KEY_CHARS_MAX = 255

CALL_S_MAX = 300.0
"""Longest that an answer is waited for; 504 afterwards, with the id of the call, which goes on."""
POLL_S_MAX = 120.0
"""Longest ``wait`` of GET /v1/calls/{id}."""
POLL_S_FIRST, POLL_S_SLOWEST = 0.05, 1.0
"""How often the platform is asked about calls that were not made through this process."""
STATUS_S = 0.25
"""How often server-sent events look for another status."""
PING_S = 15.0
"""Silence of a stream is broken by a comment this often, so that nothing in between gives it up."""
CANCEL_S = 2.0
DRAIN_S = 2.0
"""What is open at the end of the process may be answered for so long."""
TOKEN_CACHE_S = 2.0
"""A token that was revoked works this long at most."""
TOKEN_CACHE_MAX = 10_000
RETRY_AFTER_S = 1

assert HTTP_BODY_BYTES_MAX < RESULT_BYTES_MAX
assert STREAMS_MAX < REQUESTS_MAX <= CONNECTIONS_MAX
assert STATUS_S < PING_S < KEEP_ALIVE_S * 2 and POLL_S_MAX <= CALL_S_MAX
