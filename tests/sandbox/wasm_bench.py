"""A sandbox in this process, with short ways to run things in it and to see what it said."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

from fleet.protocol import codec, frames, limits
from runtime.guest.build import GuestImage
from runtime.sandbox.wasm import WasmSandbox
from runtime.slot_wire import LogLine, SlotJob, SlotProgram, SlotResult

MIB = 1 << 20


class Desk:
    """Remembers what the guest said."""

    def __init__(self) -> None:
        self.progressed: list[int] = []
        self.delivered: list[tuple[int, bytes]] = []
        self.lines: list[tuple[int | None, int, str]] = []
        self.stamps: list[float] = []
        self.saved: list[bytes] = []
        self.leaving = False
        self.yielded: list[bytes] = []
        self.credits: list[int] = []
        """What ``credit`` answers, one after another."""
        self.waits: list[int] = []
        """How many items there were at each ``credit``."""

    def item(self, data: bytes) -> None:
        self.yielded.append(data)

    def credit(self) -> int:
        self.waits.append(len(self.yielded))
        return self.credits.pop(0)

    def progress(self, position: int) -> None:
        self.progressed.append(position)

    def items(self, first: int, results: bytes) -> None:
        self.delivered.append((first, results))

    def log(self, lines: list[LogLine], position: int | None) -> None:
        self.lines += [(position, stream, text) for _stamp, stream, text in lines]
        self.stamps += [stamp for stamp, _stream, _text in lines]

    def checkpoint(self, state: bytes) -> None:
        self.saved.append(state)

    def departing(self) -> bool:
        return self.leaving


def zipped(files: dict[str, str | bytes], comments: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            info = zipfile.ZipInfo(path)
            info.comment = (comments or {}).get(path, "").encode()
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


class Bench:
    """A sandbox with its desk, and short ways to use them."""

    def __init__(self, image: GuestImage) -> None:
        self.desk = Desk()
        self.sandbox = WasmSandbox(image.path_aot, self.desk)
        self._programs = 0

    def load(
        self,
        source: str | dict[str, str | bytes],
        name: str = "f",
        *,
        module: str = "__main__",
        memory_bytes: int = 256 * MIB,
        isolation: str = "instance",
        comments: dict[str, str] | None = None,
    ) -> SlotProgram:
        files: dict[str, str | bytes] = source if isinstance(source, dict) else {"__main__.py": source}
        self._programs += 1
        program = SlotProgram(f"program-{self._programs}", module, name, memory_bytes, isolation)
        self.bundle = zipped(files, comments)
        self.sandbox.load(program, self.bundle)
        return program

    def run(self, program: SlotProgram, *args: Any, **more: Any) -> SlotResult:
        job = SlotJob(1, program, pickle.dumps((args, {})), call="c1", car="car-x", timeout_s=60.0, **more)
        return self.sandbox.run(job)

    def value(self, program: SlotProgram, *args: Any, **more: Any) -> Any:
        result = self.run(program, *args, **more).result
        assert result[0] == 0, codec.decode_exception(result[1:]).traceback
        return codec.decode(result[1:])

    def raised(self, program: SlotProgram, *args: Any) -> codec.ExceptionData:
        result = self.run(program, *args).result
        assert result[0] == 1, codec.decode(result[1:])
        return codec.decode_exception(result[1:])

    def eval(self, source: str, *args: Any) -> Any:
        return self.value(self.load(source), *args)

    def error(self, source: str, *args: Any) -> codec.ExceptionData:
        return self.raised(self.load(source), *args)

    def chunk(self, program: SlotProgram, inputs: list[Any], **more: Any) -> list[Any]:
        """Run a chunk; its values, in order, wherever they were delivered."""
        return [codec.decode(item[1:]) for item in self.items(program, inputs, **more)]

    def items(self, program: SlotProgram, inputs: list[Any], **more: Any) -> list[bytes]:
        """Run a chunk; its results as they are."""
        self.desk.delivered.clear()
        args = frames.pack_items([pickle.dumps(((value,), {})) for value in inputs])
        result = self.sandbox.run(SlotJob(1, program, args, call="c1", items=len(inputs), timeout_s=5.0, **more))
        found: list[bytes] = []
        for first, packed in [*self.desk.delivered, (result.first, result.result)]:
            assert first == len(found)
            found += [bytes(item) for item in frames.unpack_items(packed, limits.CHUNK_ITEMS_MAX)]
        assert len(found) == len(inputs)
        return found
