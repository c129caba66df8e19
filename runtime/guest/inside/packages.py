"""Import the packages of a function: each is a zip of one distribution's files at import-relative paths."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .loader import BundleLoader


def install(packages: Sequence[bytes]) -> None:
    """Let imports find these packages, in their order, behind the bundle and the standard library.

    Raises what a damaged zip raises (``zipfile.BadZipFile``).
    """
    sys.meta_path.extend([BundleLoader(data) for data in packages])
