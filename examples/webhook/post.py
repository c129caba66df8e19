"""Deploy the webhook and post a picture to it, as any program that speaks HTTP would.

fleet dev &
python -m examples.webhook.post            # a picture drawn here
python -m examples.webhook.post photo.png small.png 64
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from examples.webhook import png

APP = Path(__file__).with_name("thumbnails.py")


def fleet_cli(*words: str) -> str:
    """What ``fleet WORDS`` prints on stdout."""
    return subprocess.run(
        [sys.executable, "-m", "fleet.cli.main", *words], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def drawn(width: int = 320, height: int = 200) -> bytes:
    """A PNG file: two soft colours and a grid."""
    rows = [
        b"".join(bytes((255 * x // width, 128 if x % 40 and y % 40 else 0, 255 * y // height)) for x in range(width))
        for y in range(height)
    ]
    return png.write(png.Picture(width, 3, rows))


def main() -> None:
    """Deploy, post, and say what came back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("small", nargs="?", type=Path)
    parser.add_argument("side", nargs="?", type=int, default=48)
    given = parser.parse_args()
    fleet_cli("deploy", str(APP))
    status = json.loads(fleet_cli("status", "--json"))
    url = f"{status['http_url']}/u/{status['tenant']}/thumbnails/{given.side}"
    picture = given.picture.read_bytes() if given.picture else drawn()
    request = urllib.request.Request(url, picture, {"content-type": "image/png"}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        small = answer.read()
        print(f"{len(picture)} bytes in, {len(small)} out: {answer.headers['x-size']}, mean {answer.headers['x-mean']}")
    if given.small:
        given.small.write_bytes(small)


if __name__ == "__main__":
    main()
