"""The functions that are measured. Nothing but ``fleet`` is imported: the bundle is this file."""

from __future__ import annotations

import time

import fleet

app = fleet.App("bench")

MEMORY_MIB = 256
RUN_S_MAX = 60.0


@app.function
def noop(value: object = None) -> object:
    """Nothing."""
    return value


@app.function(isolation="call", name="noop-fresh")
def noop_fresh(value: object = None) -> object:
    """Nothing, in a sandbox of its own."""
    return value


@app.function
def echo(data: bytes) -> bytes:
    """What it was given."""
    return data


@app.function(memory=f"{MEMORY_MIB}MiB", timeout=2 * RUN_S_MAX)
def burn(hold: bool) -> str:
    """Burn CPU, holding as much memory as the limit allows if ``hold``; on the next car, end at once."""
    here = fleet.current()
    if here.resume() is not None:
        return "moved"
    here.checkpoint("began")
    held = []
    step = 4 << 20
    while hold:
        try:
            held.append(b"x" * step)
        except MemoryError:
            if step <= 64 << 10:
                break
            step //= 2
    until = time.monotonic() + RUN_S_MAX
    turns = 0
    while time.monotonic() < until:
        turns += sum(range(1000)) & 1
    return f"never moved ({len(held)} blocks, {turns})"


@app.function
def floats(count: int) -> list[float]:
    """That many different numbers."""
    return [number / 7 for number in range(count)]


@app.function
def rows(count: int) -> list[dict[str, object]]:
    """That many rows of a table."""
    return [{"id": number, "name": f"name {number}", "price": number / 7, "sold": None} for number in range(count)]


@app.function
def encode_and_pickle(count: int, table: bool = False, turns: int = 1) -> tuple[float, float]:
    """Seconds that encoding ``count`` floats (or rows) as a result takes, and that pickling them takes: best of ``turns``."""
    import pickle

    from fleet.protocol import codec

    value: object = rows.local(count) if table else floats.local(count)
    encode_s, pickle_s = [], []
    for _ in range(turns):
        began = time.perf_counter()
        codec.encode(value)
        encode_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        pickle.dumps(value, 5)
        pickle_s.append(time.perf_counter() - began)
    return min(encode_s), min(pickle_s)
