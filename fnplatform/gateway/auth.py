"""Who asks: bearer tokens tied to a tenant, or, where the gateway is open, whoever sits at this machine.

``Authorization: Bearer flt_<tenant>.<id>.<secret>``. Only the hash of a secret leaves this process; the platform compares
it. Verdicts are kept for TOKEN_CACHE_S.

Open (``fleet dev``): no token means the tenant ``default``. Then any page in a browser here could ask as well, so requests
that say they come from another site are refused, and so is any name of this machine but its loopback ones (a page can
have its own name point here). A token given all the same must be valid.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request

from fleet import _tokens
from fleet._settings import TENANT
from fleet.protocol.errors import FleetError
from fleet.protocol.messages import TokenReply, TokenRequest
from fleet.protocol.subjects import ApiVerb
from fnplatform.gateway.bounds import TOKEN_CACHE_MAX, TOKEN_CACHE_S
from fnplatform.gateway.problems import HttpProblem
from fnplatform.gateway.tenants import Pool

CHALLENGE = {"www-authenticate": 'Bearer realm="fleet"'}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _unauthorized(detail: str, hint: str) -> HttpProblem:
    return HttpProblem(401, "unauthorized", detail, hint=hint, headers=CHALLENGE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose rights a request has. ``proven``: by a token."""

    tenant: str
    proven: bool


class Authority:
    """Tells who asks. ``open_to_all``: without a token it is the default tenant."""

    def __init__(self, pool: Pool, *, open_to_all: bool, local: bool, origins: Sequence[str]) -> None:
        self._pool = pool
        self._open = open_to_all
        self._local = local
        self._origins = frozenset(origins)
        self._verdicts: OrderedDict[tuple[str, str, str], tuple[float, bool]] = OrderedDict()

    async def caller(self, request: Request) -> Caller:
        """Who asks; HttpProblem 401 or 403."""
        given = request.headers.get("authorization")
        if given is None:
            if not self._open:
                raise _unauthorized("a bearer token is needed", "make one with: fleet token create")
            self._check_same_site(request)
            return Caller(TENANT, proven=False)
        scheme, _, text = given.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("only bearer tokens are known here", "send Authorization: Bearer flt_...")
        try:
            token = _tokens.parse(text.strip())
        except FleetError as error:
            raise _unauthorized(error.message, error.hint) from None
        if not await self._holds(token):
            raise _unauthorized("the token is not valid: revoked, expired, or never made", "see: fleet token list")
        return Caller(token.tenant, proven=True)

    async def is_owner(self, request: Request, tenant: str) -> bool:
        """Whether whoever asks may see what ``tenant`` sees; never a problem."""
        try:
            return (await self.caller(request)).tenant == tenant
        except (HttpProblem, FleetError):
            return False

    async def _holds(self, token: _tokens.Parsed) -> bool:
        key = (token.tenant, token.id, token.secret_sha256)
        found = self._verdicts.get(key)
        if found is not None and time.monotonic() < found[0]:
            return found[1]
        async with self._pool.use(token.tenant) as tenant:
            request = TokenRequest(action="check", id=token.id, secret_sha256=token.secret_sha256)
            valid = (await tenant.ask(ApiVerb.TOKEN, request, TokenReply)).valid
            tenant.known = tenant.known or valid
        self._verdicts[key] = (time.monotonic() + TOKEN_CACHE_S, valid)
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > TOKEN_CACHE_MAX:
            self._verdicts.popitem(last=False)
        return valid

    def _check_same_site(self, request: Request) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            raise HttpProblem(
                403, "other_site", f"pages of {origin[:200]} may not ask here",
                hint="allow them with --cors-origin, or send a token",
            )  # fmt: skip
        if self._local and _name_of(host) not in LOOPBACK:
            raise HttpProblem(
                403, "other_site", f"without a token this gateway answers to 127.0.0.1 and localhost, not to {host[:200]}",
                hint="send a token: fleet token create",
            )  # fmt: skip


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
