"""Bearer tokens for HTTP: ``token create``, ``list``, ``revoke``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import show

if TYPE_CHECKING:
    from fleet.protocol.messages import TokenInfo, TokenReply, TokenRequest

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TTL_S_MIN = 1.0
TTL_S_MAX = 3660 * 24 * 3600.0
NO_END = "never"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    token = typer.Typer(no_args_is_help=True, help="Bearer tokens for HTTP.")
    token.command("create", epilog="Example: fleet token create --name ci --ttl 90d")(create)
    token.command("list", epilog="Example: fleet token list --json")(list_tokens)
    token.command("revoke", epilog="Example: fleet token revoke 3f9a01c2d4e5f607")(revoke)
    app.add_typer(token, name="token")


def _ask(request: TokenRequest) -> TokenReply:
    from fleet.cli.ask import ask_once
    from fleet.protocol.messages import TokenReply
    from fleet.protocol.subjects import ApiVerb

    return ask_once(ApiVerb.TOKEN, request, TokenReply)


def create(
    name: Annotated[str, typer.Option(help="What it is for, shown by list.")] = "",
    ttl: Annotated[str, typer.Option(help='How long it holds: "12h", "90d", or "never" for no end.')] = "90d",
    as_json: JSON = False,
) -> None:
    """Make a token and print it, this once: only a hash of it is kept."""
    from fleet import _tokens
    from fleet._settings import Settings
    from fleet.protocol.errors import InvalidOption
    from fleet.protocol.messages import TokenRequest
    from fleet.protocol.units import parse_seconds

    if len(name) > 200:
        raise InvalidOption(f"--name has {len(name)} characters, 200 are allowed")
    ttl_s = None if ttl == NO_END else parse_seconds(ttl, "--ttl", TTL_S_MIN, TTL_S_MAX)
    text = _tokens.make(Settings.resolve().tenant)
    made = _tokens.parse(text)
    request = TokenRequest(action="create", id=made.id, name=name, secret_sha256=made.secret_sha256, ttl_s=ttl_s)
    info = _ask(request).tokens[0]
    if as_json:
        show.data({"token": text, **info.model_dump(mode="json")})
        return
    print(text)
    show.say(f"token {info.id}{f' ({name})' if name else ''}, {_expiry(info)}. Keep it: it is not shown again.")


def list_tokens(as_json: JSON = False) -> None:
    """Which tokens there are; never their secrets."""
    from fleet.protocol.messages import TokenRequest

    tokens = _ask(TokenRequest(action="list")).tokens
    if as_json:
        show.data(tokens)
        return
    rows = [(one.id, one.name or "-", show.ago(one.created_unix_s), _expiry(one)) for one in tokens]
    show.table(("TOKEN", "NAME", "AGE", "HOLDS"), rows)


def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of tokens, as list shows them.")],
    as_json: JSON = False,
) -> None:
    """End tokens at once. A whole token does as well as its id."""
    from fleet import _tokens
    from fleet.protocol.ids import check_token
    from fleet.protocol.messages import TokenRequest

    wanted = [_tokens.parse(one).id if one.startswith("flt_") else check_token(one, "token") for one in ids]
    revoked = [_ask(TokenRequest(action="revoke", id=one)).tokens[0] for one in wanted]
    if as_json:
        show.data({"revoked": [one.id for one in revoked]})
        return
    for one in revoked:
        show.say(f"{one.id}{f' ({one.name})' if one.name else ''}: revoked")


def _expiry(info: TokenInfo) -> str:
    import time

    if info.expires_unix_s is None:
        return "no end"
    left_s = info.expires_unix_s - time.time()
    return f"for {show.span(left_s)}" if left_s > 0 else "expired"
