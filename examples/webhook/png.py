"""PNG pictures in plain Python: what ISO/IEC 15948 calls colour types 0, 2, 4 and 6 with 8 bits, not interlaced.

Pixels are rows of bytes, ``channels`` of them per pixel. Errors: ValueError says what isn't read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Colour type -> bytes of a pixel."""
PIXELS_MAX = 4_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: ``rows`` of ``width * channels`` bytes."""

    width: int
    channels: int
    rows: list[bytes]

    @property
    def height(self) -> int:
        return len(self.rows)

    def thumbnail(self, side: int) -> Picture:
        """Made smaller so that neither side is longer than ``side``: each pixel the mean of those that it stands for."""
        scale = max(self.width, self.height) / side
        if scale <= 1:
            return self
        columns = list(_bins(self.width, max(1, round(self.width / scale))))
        lines = list(_bins(self.height, max(1, round(self.height / scale))))
        return Picture(len(columns), self.channels, [self._mean_row(top, end, columns) for top, end in lines])

    def _mean_row(self, top: int, end: int, columns: list[tuple[int, int]]) -> bytes:
        step, rows, out = self.channels, self.rows[top:end], bytearray()
        # Summed down first: then a column costs one addition per pixel of a single row.
        sums = [sum(values) for values in zip(*rows, strict=True)] if len(rows) > 1 else list(rows[0])
        for first, last in columns:
            count = (last - first) * len(rows)
            for channel in range(step):
                out.append(sum(sums[first * step + channel : last * step : step]) // count)
        return bytes(out)

    def mean(self) -> tuple[int, ...]:
        """The mean of all pixels, by channel."""
        (row,) = self.thumbnail(1).rows
        return tuple(row)


def _bins(length: int, count: int) -> Iterator[tuple[int, int]]:
    for n in range(count):
        yield n * length // count, (n + 1) * length // count


def read(data: bytes) -> Picture:
    """The picture of a PNG file."""
    if not data.startswith(SIGNATURE):
        raise ValueError("this is no PNG file")
    header, packed = b"", bytearray()
    for kind, body in _chunks(data):
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            packed += body
    if len(header) != 13:
        raise ValueError("the file has no header")
    width, height, bits, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if bits != 8 or colour not in CHANNELS or compression or filtering or interlace:
        raise ValueError(
            f"colour type {colour} with {bits} bits{', interlaced,' if interlace else ''} is not read here"
        )
    if not 0 < width * height <= PIXELS_MAX:
        raise ValueError(f"{width} x {height} pixels: 1 to {PIXELS_MAX} are read here")
    channels = CHANNELS[colour]
    return Picture(width, channels, _rows(_unpacked(bytes(packed), height * (width * channels + 1)), width, channels))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if data[at + 8 + length : at + 12 + length] != struct.pack(">I", zlib.crc32(kind + body)):
            raise ValueError(f"the file is damaged at byte {at}")
        yield kind, body
        at += 12 + length


def _unpacked(packed: bytes, size: int) -> bytes:
    try:
        data = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(f"the pixels can't be unpacked: {error}") from None
    if len(data) != size:
        raise ValueError("the file has too few pixels, or too many")
    return data


def _rows(data: bytes, width: int, channels: int) -> list[bytes]:
    length, rows, above = width * channels, [], bytes(width * channels)
    for start in range(0, len(data), length + 1):
        above = _unfiltered(data[start], bytearray(data[start + 1 : start + 1 + length]), above, channels)
        rows.append(above)
    return rows


def _unfiltered(kind: int, line: bytearray, above: bytes, step: int) -> bytes:
    """A row as it was before the encoder wrote differences to its neighbours instead."""
    if kind == 0:
        return bytes(line)
    if kind == 2:
        return bytes([(one + up) & 255 for one, up in zip(line, above, strict=True)])
    if kind not in (1, 3, 4):
        raise ValueError(f"a row has the filter {kind}, which there isn't")
    for at, one in enumerate(line):
        left = line[at - step] if at >= step else 0
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + above[at]) // 2
        else:
            guess = _paeth(left, above[at], above[at - step] if at >= step else 0)
        line[at] = (one + guess) & 255
    return bytes(line)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    off_left, off_up, off_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if off_left <= off_up and off_left <= off_corner:
        return left
    return up if off_up <= off_corner else corner


def write(picture: Picture) -> bytes:
    """A PNG file of ``picture``."""
    colour = next(kind for kind, channels in CHANNELS.items() if channels == picture.channels)
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in picture.rows), 6)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
