"""Where packages are looked for: uv's own settings, or else those that pip has on this machine.

Many machines have only pip configured (``pip.conf``, ``PIP_INDEX_URL``). uv reads neither, so they are handed to it through
its environment, never on a command line that others can see. Nothing of this is written down anywhere.
"""

from __future__ import annotations

import configparser
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_UV_VARIABLES = (
    "UV_CONFIG_FILE",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_NO_INDEX",
)
_UV_KEYS = frozenset({"index", "index-url", "extra-index-url", "find-links", "no-index"})


def uv_environment(environ: Mapping[str, str], folder: Path, home: Path) -> dict[str, str]:
    """The environment to run uv in, from ``folder``."""
    found = dict(environ)
    if not uv_is_configured(environ, folder, home):
        for name, value in from_pip(pip_settings(environ, home)).items():
            found.setdefault(name, value)
    return found


def uv_is_configured(environ: Mapping[str, str], folder: Path, home: Path) -> bool:
    """Whether somebody has told uv where packages are."""
    if any(environ.get(name) for name in _UV_VARIABLES):
        return True
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = [config / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]
    places += [above / "uv.toml" for above in (folder, *folder.parents)]
    if any(_names_an_index(_toml(path)) for path in places):
        return True
    projects = (_toml(above / "pyproject.toml") for above in (folder, *folder.parents))
    return any(_names_an_index(project.get("tool", {}).get("uv", {})) for project in projects)


def _names_an_index(settings: Mapping[str, Any]) -> bool:
    return bool(_UV_KEYS & settings.keys()) or bool(_UV_KEYS & settings.get("pip", {}).keys())


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # Not there; or broken, which uv itself says better.
        return {}


def pip_settings(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """What pip goes by for installing: its files, the more particular one last, then its environment variables."""
    found: dict[str, str] = {}
    for path in _pip_files(environ, home):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):  # pip itself refuses to run with it, and says why.
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update({name.replace("_", "-"): value for name, value in parser.items(section)})
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def _pip_files(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    given = environ.get("PIP_CONFIG_FILE")
    if given == os.devnull:
        return
    shared = environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    yield from (Path(folder) / "pip" / "pip.conf" for folder in shared.split(os.pathsep))
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if given:
        yield Path(given)


def from_pip(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables of uv that mean what pip's ``settings`` mean."""
    found: dict[str, str] = {}
    if url := settings.get("index-url"):
        found["UV_DEFAULT_INDEX"] = url
    if extra := settings.get("extra-index-url"):
        found["UV_INDEX"] = " ".join(extra.split())
        # pip takes the best version of all indexes, whichever has it.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if links := settings.get("find-links"):
        found["UV_FIND_LINKS"] = ",".join(links.split())
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        found["UV_NO_INDEX"] = "1"
    if hosts := settings.get("trusted-host"):
        found["UV_INSECURE_HOST"] = " ".join(hosts.split())
    if proxy := settings.get("proxy"):
        found["HTTP_PROXY"] = found["HTTPS_PROXY"] = proxy
    if cert := settings.get("cert"):
        found["SSL_CERT_FILE"] = cert
    if client_cert := settings.get("client-cert"):
        found["SSL_CLIENT_CERT"] = client_cert
    return found
