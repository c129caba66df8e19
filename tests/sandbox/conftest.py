"""The real guest, built once and kept in the cache that everything else uses, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.guest.build import GuestImage, ensure_guest
from tests.sandbox.wasm_bench import Bench


@pytest.fixture(scope="session")
def guest_image() -> GuestImage:
    """The guest of the sources as they are; the first time this takes half a minute."""
    return ensure_guest(progress=print)


@pytest.fixture
def bench(guest_image: GuestImage) -> Iterator[Bench]:
    """A sandbox in this process."""
    made = Bench(guest_image)
    yield made
    made.sandbox.close()  # Python's collector doesn't see the 50 MB that each of them takes.
