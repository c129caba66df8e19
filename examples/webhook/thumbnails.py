"""A webhook: post a PNG picture, get a thumbnail.

    fleet dev &
    fleet deploy examples/webhook/thumbnails.py
    curl --data-binary @photo.png http://127.0.0.1:4280/u/default/thumbnails/64 -o small.png

``fleet deploy`` prints the address, which anybody may post to. Every picture is a call on some parked car: read, made smaller
and written anew in plain Python. ``python -m examples.webhook.post`` does all of it.
"""

from __future__ import annotations

import fleet
from examples.webhook import png

SIDE_MAX = 512


@fleet.function(on=[fleet.http("POST", "/thumbnails/{side}")], timeout="30s", memory="256MiB")
def thumbnail(event: fleet.Event) -> fleet.Response:
    """The picture in the body, at most ``side`` pixels wide and high; its mean colour stands in a header."""
    assert event.http is not None, "only HTTP starts it"
    side = event.http.path_params["side"]
    if not side.isdecimal() or not 1 <= int(side) <= SIDE_MAX:
        return fleet.Response({"error": f"a side is a number from 1 to {SIDE_MAX}"}, status=400)
    try:
        picture = png.read(event.body)
    except ValueError as error:
        return fleet.Response({"error": str(error)}, status=415)
    small = picture.thumbnail(int(side))
    mean = "#" + "".join(f"{value:02x}" for value in small.mean())
    headers = {"x-size": f"{small.width}x{small.height}", "x-mean": mean}
    return fleet.Response(png.write(small), headers=headers, content_type="image/png")
