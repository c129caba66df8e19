"""schemathesis against the OpenAPI document: whatever is sent, no server error, and answers as the document tells."""

from __future__ import annotations

import copy
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fleet.testing import LocalFleet
from tests.integration.gateway_rig import FUNCTIONS, deploy

EXAMPLES = 15
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
NAMES = {"app": ["web", "none", "a b"], "fn": ["add", "echo", "typed", "few", "hook", "none"]}
"""Functions that end whatever they are given."""


@pytest.fixture(scope="module")
def url(shared_fleet: LocalFleet) -> str:
    deploy(FUNCTIONS, "web")
    return shared_fleet.http_url


def narrowed(document: dict[str, Any], call: str) -> dict[str, Any]:
    """The document with names that exist, and without what never ends."""
    found = copy.deepcopy(document)
    values = {**NAMES, "call": [call, "none"], "follow": [False]}
    for methods in found["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in values:
                    parameter["schema"] = {"enum": values[parameter["name"]]}
    return found


@pytest.mark.parametrize("known", [False, True], ids=["any names", "names that exist"])
def test_no_server_error(url: str, known: bool) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    if known:
        spawned = httpx.post(f"{url}/v1/apps/web/functions/add:spawn", json={"x": 1})
        document = narrowed(document, spawned.json()["id"])
    else:
        for path in [path for path in document["paths"] if path == "/v1/logs"]:
            del document["paths"][path]
    schema = schemathesis.openapi.from_dict(document)
    tried = 0
    for result in schema.get_all_operations():
        tried += 1
        operation = result.ok()

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                  phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            case.validate_response(case.call(base_url=url, timeout=30), checks=CHECKS)

        ask()
    assert tried >= 11 - (not known)
