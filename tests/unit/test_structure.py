"""The shape of the code: sizes, and no import cycle between our modules."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES_MAX = 400
FUNCTION_LINES_MAX = 70
JAX_FILES = ("sdk/fleet/_jax/", "runtime/sandbox/jax")
IMPORTED_IN = {
    **dict.fromkeys(("flatbuffers", "jax", "jaxlib", "jaxtyping", "ml_dtypes", "safetensors"), JAX_FILES),
    # map over arrays: whoever has them has numpy.
    "numpy": (*JAX_FILES, "sdk/fleet/_inputs.py"),
    "nats": ("sdk/fleet/transport.py", "sdk/fleet/_receive.py"),
    "wasmtime": ("runtime/sandbox/", "runtime/guest/"),
}
"""A package -> the beginnings of the files of ours that may import it, at load or inside a function."""


def _sources() -> dict[str, str]:
    files = [path for folder in ("sdk", "fnplatform", "runtime") for path in (ROOT / folder).rglob("*.py")]
    return {str(path.relative_to(ROOT)): path.read_text() for path in files}


def test_no_module_is_longer_than_its_purpose() -> None:
    """The report is in the failure: a file that grows past the limit has the wrong shape."""
    lines = {name: text.count("\n") for name, text in _sources().items()}
    assert len(lines) > 100
    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for name, text in _sources().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > FUNCTION_LINES_MAX:
                    long[f"{name}:{node.name}"] = count
    assert long == {}


def _imported_at_load(text: str, known: set[str]) -> set[str]:
    """Modules of ours that are imported when the module is loaded (not inside functions, not for types alone)."""
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & known


def _packages_imported(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_heavy_packages_are_imported_in_their_own_files_alone() -> None:
    """The agent, the control plane and whoever never uses the jax lane do without jax and numpy."""
    wrong = {
        name: strange
        for name, text in _sources().items()
        if (strange := {p for p in _packages_imported(text) if not name.startswith(IMPORTED_IN.get(p, ("",)))})
    }
    assert wrong == {}


def test_modules_can_be_loaded_in_an_order() -> None:
    """No import cycle: whatever can't be laid in an order is in one. What a function imports when it runs is no part."""
    sources = {
        name.removesuffix(".py").removesuffix("/__init__").removeprefix("sdk/").replace("/", "."): text
        for name, text in _sources().items()
    }
    needs = {module: _imported_at_load(text, set(sources)) - {module} for module, text in sources.items()}
    ordered: set[str] = set()
    while ready := {module for module, imported in needs.items() if module not in ordered and imported <= ordered}:
        ordered |= ready
    assert sorted(set(needs) - ordered) == []
