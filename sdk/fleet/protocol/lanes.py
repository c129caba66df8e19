"""Lanes: the kinds of program that a car runs, and whether what it has reads a given program. Pure, for both sides.

``wasm`` runs Python in a sandbox; ``jax-cpu`` and ``jax-gpu`` run exported jax programs. A jax program says for each of its
modules what it takes to read it, a car's devices say what they read: a match needs one pair that goes together.
The window is jax.export's: https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees-for-custom-calls and
"Calling convention versions" there.
"""

from __future__ import annotations

from typing import NamedTuple

from fleet.protocol.errors import InvalidOption
from fleet.protocol.messages import Device, Offer, Program

WASM = "wasm"
JAX_CPU = "jax-cpu"
JAX_GPU = "jax-gpu"
LANES = (WASM, JAX_CPU, JAX_GPU)
_PLATFORMS = {JAX_GPU: "cuda", JAX_CPU: "cpu"}
"""Jax' platform of each lane, the one that is to be preferred first. No car has a tpu."""
_VERSION_PARTS_MAX = 4
_VERSION_DIGITS_MAX = 9

StableHlo = tuple[int, ...]


class Wanted(NamedTuple):
    """One lane that a program can run in, and what it takes to read it there."""

    lane: str
    calling_convention: int = 0
    stablehlo: StableHlo = ()


class Reader(NamedTuple):
    """What one lane of a car reads. ``memory_bytes``: of the device, where it has memory of its own."""

    lane: str
    memory_bytes: int = 0
    calling_convention_min: int = 0
    calling_convention_max: int = 0
    stablehlo: StableHlo = ()


NOTHING = (0, 0, -1, ())
"""Of a lane without a device: no version is inside this window."""


def version_of(text: str) -> StableHlo:
    """``1.13.4`` as numbers that compare; () for anything else, which reads nothing and is read by everything."""
    parts = text.split(".")
    if len(parts) > _VERSION_PARTS_MAX:
        return ()
    if not all(part.isascii() and part.isdigit() and len(part) <= _VERSION_DIGITS_MAX for part in parts):
        return ()
    return tuple(int(part) for part in parts)


def wanted_by(program: Program) -> tuple[Wanted, ...]:
    """The lanes that the program can run in, the fastest first; none for a jax program without a module for any."""
    if program.runtime == WASM:
        return (Wanted(WASM),)
    modules = program.jax.modules if program.jax is not None else []
    found = [
        Wanted(lane, module.calling_convention, version_of(module.stablehlo))
        for lane, platform in _PLATFORMS.items()
        for module in modules
        if platform in module.platforms
    ]
    return tuple(dict.fromkeys(found))


def readers_of(offer: Offer) -> tuple[Reader, ...]:
    """What a car reads, lane by lane; a jax lane without a device reads nothing."""
    found: set[Reader] = set()
    for lane in offer.lanes:
        if lane == WASM:
            found.add(Reader(WASM))
            continue
        devices = [device for device in offer.devices if device.lane == lane]
        found.update(_reader(device) for device in devices)
        if not devices:
            found.add(Reader(lane, *NOTHING))
    return tuple(sorted(found))


def _reader(device: Device) -> Reader:
    return Reader(
        device.lane,
        # A processor's memory is the car's: what one call gets of it is in the offer.
        device.memory_bytes if device.lane == JAX_GPU else 0,
        device.calling_convention_min,
        device.calling_convention_max,
        version_of(device.stablehlo),
    )


def reads(reader: Reader, wanted: Wanted) -> bool:
    """Whether this lane of a car understands a program that wants this."""
    return (
        reader.lane == wanted.lane
        and reader.calling_convention_min <= wanted.calling_convention <= reader.calling_convention_max
        and wanted.stablehlo <= reader.stablehlo
    )


def holds(reader: Reader, memory_bytes: int, weights_bytes: int, memory_bytes_max: int) -> bool:
    """Whether a call of this size fits: beside its weights on a graphics card, else in what the car gives one call."""
    if memory_bytes > memory_bytes_max:
        return False
    return reader.lane != JAX_GPU or memory_bytes + weights_bytes <= reader.memory_bytes


def lane_for(program: Program, offer: Offer) -> str | None:
    """The lane in which a car that makes this offer runs the program, None if it can't."""
    weights_bytes = program.jax.weights_bytes if program.jax is not None else 0
    readers = readers_of(offer)
    for wanted in wanted_by(program):
        for reader in readers:
            if reads(reader, wanted) and holds(reader, program.memory_bytes, weights_bytes, offer.memory_bytes):
                return wanted.lane
    return None


def parse_lanes(text: str, what: str) -> tuple[str, ...]:
    """``wasm,jax-cpu`` as lanes; InvalidOption where one isn't known, is there twice, or none is."""
    lanes = tuple(part.strip() for part in text.split(",") if part.strip())
    if not lanes or len(set(lanes)) < len(lanes) or not set(lanes) <= set(LANES):
        raise InvalidOption(
            f"{what} {text!r} is not allowed: some of {', '.join(LANES)}, each once, with commas between"
        )
    return lanes
