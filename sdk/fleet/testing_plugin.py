"""pytest fixtures of the platform; loaded by every pytest run where it is installed, so it imports nothing heavy.

``local_fleet``: a fleet of its own for one test; ``@pytest.mark.local_fleet(cars=4)`` passes arguments of ``LocalFleet``.
``shared_fleet``: one fleet of two cars, with HTTP, for the whole run: leave its cars as they were found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fleet.testing import LocalFleet


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "local_fleet(cars=2, slots=1, ...): arguments of fleet.testing.LocalFleet")


@pytest.fixture
def local_fleet(request: pytest.FixtureRequest) -> Iterator[LocalFleet]:
    """A running LocalFleet, ended with the test."""
    from fleet.testing import LocalFleet

    marker = request.node.get_closest_marker("local_fleet")
    with LocalFleet(*(marker.args if marker else ()), **(marker.kwargs if marker else {})) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def shared_fleet() -> Iterator[LocalFleet]:
    """One running LocalFleet for all tests that ask for it."""
    from fleet.testing import LocalFleet

    with LocalFleet(cars=2, http=True) as fleet:
        yield fleet
