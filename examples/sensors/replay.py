"""Deploy the meters' functions and publish a recorded day, in the order in which its cars left.

    fleet dev &
    python -m examples.sensors.replay 2019-09-03
    fleet logs meters.remind -f

Every reading is published under the id of its session: publish the same day again, and nothing runs a second time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import Any

import fleet
from examples.nightly.report import sessions_of

APP = Path(__file__).with_name("meters.py")


def readings_of(day: date) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Subject, id and data of each reading of a day."""
    found = sessions_of(day)
    left = {session.session_id: session.arrival + timedelta(minutes=session.stay_min) for _, _, session in found}
    for site, station, session in sorted(found, key=lambda one: (left[one[2].session_id], one[2].session_id)):
        data = {
            "station": station,
            "kwh": session.delivered_wh / 1000,
            "stood_min": session.stay_min,
            "at": left[session.session_id].astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }
        yield f"meters.{site}.{station}", session.session_id, data


def main(words: list[str]) -> None:
    """Deploy, then publish."""
    subprocess.run([sys.executable, "-m", "fleet.cli.main", "deploy", str(APP)], check=True, stdout=subprocess.DEVNULL)
    count = 0
    for subject, id, data in readings_of(date.fromisoformat(words[0] if words else "2019-09-03")):
        fleet.publish(subject, data, id=id)
        count += 1
    print(f"{count} readings published")


if __name__ == "__main__":
    main(sys.argv[1:])
