"""Pack distributions for cars and prove, by importing them in the sandbox, that they work there.

``python -P -m runtime.guest.prove PARENT FOLDER`` is started by the SDK when a function names packages. FOLDER holds
``job.json`` (see ``main``); ``report.json`` is written beside it; lines about the progress go to stderr.

Bytecode is made by the guest's own Python, so that a car needn't compile (sympy: 5 s). It is made in a fresh instance for
each distribution: the same wheel gives the same bytes on every machine that has this version of the guest.

What counts as proof: the outermost modules of a distribution can be imported. One that had native code must, besides,
get along without it: each of its native modules has a twin in Python, or was looked for by a module that was imported
in spite of not finding it. So MarkupSafe passes and lxml doesn't, whatever either of them claims.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fleet.protocol import codec
from fleet.protocol.errors import FleetError
from fleet.protocol.limits import MIB
from runtime.guest.build import ensure_guest
from runtime.guest.inside.packages_format import normalized
from runtime.guest.packing import Distribution, pack, select
from runtime.sandbox.lockdown import die_with_parent
from runtime.sandbox.wasm import WasmSandbox
from runtime.slot_wire import LogLine, SlotJob, SlotProgram

_MEMORY_BYTES = 2048 * MIB
_PROVE_S_MAX = 600.0
_BATCH_BYTES = 2 * MIB
_COMPILE_SAID_BYTES = 1 * MIB
"""Compiling that much takes 0.3 s: worth a line."""

_PROGRAM = '''
import importlib, importlib.util, marshal, sys, warnings

HEAD = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)

def compiled(sources):
    warnings.simplefilter("ignore")
    found = {}
    for path, source in sources.items():
        try:
            code = compile(source, f"/packages/{path}", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):  # A template, or meant for another Python: its import fails, as anywhere.
            continue
        found[path] = HEAD + marshal.dumps(code)
    return found

def imported(modules):
    """Why each module can't be imported, or None; native modules that were looked for; those that weren't missed."""
    warnings.simplefilter("ignore")
    finder = sys.meta_path[-1]
    failures = {}
    for name in modules:
        failures[name] = None
        try:
            importlib.import_module(name)
        except BaseException as error:
            failures[name] = f"{type(error).__name__}: {error}"[:300]
    return failures, sorted(set(finder.tried)), sorted(finder.tolerated)
'''


@dataclass(slots=True)
class Record:
    """A packed distribution, as it is kept in the cache."""

    name: str
    version: str
    file: str
    """Its zip, in the folder of the job."""
    digest: str
    size_bytes: int
    tops: list[str]
    roots: list[str]
    natives: list[str]
    """Native modules without a twin in Python."""
    modules: list[str] = field(default_factory=list)
    """All modules, where there are natives."""


@dataclass(slots=True)
class Verdict:
    """What the proof found. ``refused`` is empty when all that was asked for works."""

    refused: str = ""
    """Name of the distribution that can't be used."""
    module: str = ""
    why: str = ""
    is_native: bool = False
    left_out: list[str] = field(default_factory=list)
    """Names of native distributions that the others do without."""


@dataclass(slots=True)
class Imports:
    """What came of importing modules in the sandbox."""

    failures: Mapping[str, str | None]
    """Module -> why it can't be imported, or None."""
    tried: Collection[str]
    """Native modules that were looked for."""
    tolerated: Collection[str]
    """Those that a module of the same distribution got along without."""


def judge(records: Iterable[Record], requested: Iterable[str], imports: Imports) -> Verdict:
    """Whether what was asked for works, and which native distributions it does without."""
    broken: dict[str, Verdict] = {}
    for record in records:
        public = [root for root in record.roots if not root.startswith("_")] or record.roots
        failures = [(root, why) for root in public if (why := imports.failures[root]) is not None]
        missed = [native for native in record.natives if _is_missed(native, imports)]
        if missed:
            broken[record.name] = Verdict(record.name, missed[0], "", True)
        elif public and len(failures) == len(public):
            broken[record.name] = Verdict(record.name, *failures[0], bool(record.natives))
    wanted = [name for name in requested if name in broken]
    if wanted:
        # What is asked for may fail for what it needs: native code among all that fails is the cause.
        native = [name for name in (*wanted, *broken) if broken[name].is_native]
        return broken[native[0] if native else wanted[0]]
    return Verdict(left_out=sorted(name for name, verdict in broken.items() if verdict.is_native))


def _is_missed(native: str, imports: Imports) -> bool:
    """Whether its own distribution can't do without a native module: it looks for it in vain, or the name is public."""
    public = not any(part.startswith("_") for part in native.split("."))
    return native not in imports.tolerated and (public or native in imports.tried)


class _Silent:
    """Nobody listens to what packages print while they are imported."""

    def progress(self, position: int) -> None:
        """Nothing."""

    def items(self, first: int, results: bytes) -> None:
        """Nothing."""

    def log(self, lines: list[LogLine], position: int | None) -> None:
        """Nothing."""

    def checkpoint(self, state: bytes) -> None:
        """Nothing."""

    def item(self, data: bytes) -> None:
        """Nothing: no generator runs here."""

    def credit(self) -> int:
        """None: no generator runs here."""
        return 0

    def departing(self) -> bool:
        """Never."""
        return False


class Workshop:
    """A sandbox that compiles and imports, in a fresh instance each time."""

    def __init__(self, aot_path: str) -> None:
        self._sandbox = WasmSandbox(aot_path, _Silent())
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("__main__.py", _PROGRAM)
        self._bundle = made.getvalue()
        self._count = 0

    def _fresh(self, function: str, packages: Sequence[bytes] = ()) -> SlotProgram:
        self._count += 1
        program = SlotProgram(f"prove-{self._count}", "__main__", function, _MEMORY_BYTES)
        self._sandbox.load(program, self._bundle, packages)
        return program

    def _ask(self, program: SlotProgram, argument: Any) -> Any:
        job = SlotJob(1, program, pickle.dumps(((argument,), {})), call="prove", timeout_s=_PROVE_S_MAX)
        result = self._sandbox.run(job).result
        if result[0] != 0:
            raise RuntimeError(codec.decode_exception(result[1:]).traceback)
        return codec.decode(result[1:])

    def compile(self, sources: Mapping[str, bytes]) -> dict[str, bytes]:
        """Content of the ``.pyc`` file of each source that compiles."""
        program = self._fresh("compiled")
        found: dict[str, bytes] = {}
        batch: dict[str, bytes] = {}
        batch_bytes = 0
        for path, source in sources.items():
            batch[path] = source
            batch_bytes += len(source)
            if batch_bytes > _BATCH_BYTES:
                found.update(self._ask(program, batch))
                batch, batch_bytes = {}, 0
        found.update(self._ask(program, batch))
        return found

    def imports(self, packages: Sequence[bytes], modules: Sequence[str]) -> Imports:
        """What comes of importing each module with ``packages`` at hand."""
        return Imports(*self._ask(self._fresh("imported", packages), list(modules)))


def read_installed(folder: Path, name: str, version: str) -> Distribution:
    """The distribution ``name`` as an installer has put it into ``folder``; StopIteration if it isn't there."""
    info = next(path for path in sorted(folder.glob("*.dist-info")) if _is_of(path.name, name))
    files = {}
    with open(info / "RECORD", encoding="utf-8", newline="") as record:
        for row in csv.reader(record):
            if row and ".." not in row[0].split("/") and not row[0].startswith("/") and (folder / row[0]).is_file():
                files[row[0]] = (folder / row[0]).read_bytes()
    return select(name, version, info.name, files)


def _is_of(info: str, name: str) -> bool:
    return normalized(info.removesuffix(".dist-info").rpartition("-")[0]) == normalized(name)


def main(folder: Path) -> None:
    """Do ``job.json``, write ``report.json``.

    Job: ``installed`` (folder of what is new), ``new`` ([name, version] of each), ``records`` (of what was packed before;
    ``file`` relative to ``folder`` or absolute), ``requested`` (names). Report: ``records`` (of what is new), ``verdict``.
    """
    job = json.loads((folder / "job.json").read_text())
    workshop = Workshop(ensure_guest(progress=_say).path_aot)
    made = [_packed(workshop, folder, Path(job["installed"]), name, version) for name, version in job["new"]]
    records = [*(Record(**record) for record in job["records"]), *made]
    _say("importing them in the sandbox")
    modules = sorted({module for record in records for module in (record.modules or record.roots)})
    imports = workshop.imports([(folder / record.file).read_bytes() for record in records], modules)
    verdict = judge(records, job["requested"], imports)
    report = {"records": [asdict(record) for record in made], "verdict": asdict(verdict)}
    (folder / "report.json").write_text(json.dumps(report))


def _packed(workshop: Workshop, folder: Path, installed: Path, name: str, version: str) -> Record:
    distribution = read_installed(installed, name, version)
    sources = distribution.sources
    if sum(map(len, sources.values())) > _COMPILE_SAID_BYTES:
        _say(f"compiling {distribution.name} for the sandbox (once)")
    data = pack(distribution, workshop.compile(sources))
    file = f"{distribution.name}.zip"
    (folder / file).write_bytes(data)
    modules = distribution.modules
    return Record(
        name=distribution.name,
        version=version,
        file=file,
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        tops=distribution.tops,
        roots=distribution.roots,
        natives=[native for native in distribution.natives if native not in modules],
        modules=modules if distribution.natives else [],
    )


def _say(line: str) -> None:
    print(f"fleet: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    try:
        main(Path(sys.argv[2]))
    except FleetError as failed:
        (Path(sys.argv[2]) / "report.json").write_text(json.dumps({"error": failed.message, "hint": failed.hint}))
