"""Arguments against the JSON Schema that a deploy derived from the function's signature.

A schema comes from whoever deployed, so it is used with care: it may refer to nothing outside itself, use no regular
expression, and its checks take time in proportion to the arguments.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import anyio.to_thread
from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from fleet.protocol.messages import FunctionInfo, Manifest
from fnplatform.gateway.bounds import SCHEMA_ERRORS_MAX, SCHEMAS_MAX
from fnplatform.gateway.problems import Fault, HttpProblem

_DETAIL_CHARS_MAX = 300


def _unique(_validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """jsonschema's own compares each with each where it can't sort them."""
    if wanted and isinstance(value, list) and len({json.dumps(one, sort_keys=True) for one in value}) != len(value):
        yield ValidationError("has an element twice")


def _no_patterns(*_: Any) -> Iterator[ValidationError]:
    """Regular expressions of others can take for ever."""
    return iter(())


_Validator: Any = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"uniqueItems": _unique, "pattern": _no_patterns, "patternProperties": _no_patterns}
)
_NOTHING_ELSE: Registry[Any] = Registry()
"""Without it, jsonschema fetches what a ``$ref`` names from wherever it lies."""


class Schemas:
    """Compiled schemas by version."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[tuple[str, str], Any] = OrderedDict()

    async def check(self, info: FunctionInfo, arguments: dict[str, Any], *, small: bool) -> None:
        """HttpProblem 422 that points at what doesn't fit, 415 where the function takes what JSON can't say."""
        validator = self._validator(info)
        if validator is None:
            return
        faults = (
            _faults(validator, arguments) if small else await anyio.to_thread.run_sync(_faults, validator, arguments)
        )
        if faults:
            name = f"{info.manifest.app}.{info.manifest.function}"
            raise HttpProblem(
                422, "wrong_arguments", f"the arguments don't fit {name}{info.manifest.signature}"[:1000],
                hint=f"GET /v1/apps/{info.manifest.app}/functions has its JSON Schema", errors=faults,
            )  # fmt: skip

    def _validator(self, info: FunctionInfo) -> Any:
        manifest = info.manifest
        if manifest.json_why_not:
            raise HttpProblem(
                415, "no_json_form", f"{manifest.app}.{manifest.function} can't be called with JSON: {manifest.json_why_not}",
                hint="call it with the SDK",
            )  # fmt: skip
        if not manifest.json_schema:
            return None  # Deployed by an earlier SDK.
        key = (info.version, manifest.json_schema)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = _compiled(manifest)
            if len(self._compiled) > SCHEMAS_MAX:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(key)
        return found


def schema_of(manifest: Manifest) -> Any:
    """The schema as JSON; None where there is none (or what was deployed is no JSON)."""
    try:
        return json.loads(manifest.json_schema) if manifest.json_schema else None
    except (ValueError, RecursionError):
        return None


def _compiled(manifest: Manifest) -> Any:
    schema = schema_of(manifest)
    if not isinstance(schema, dict):
        raise _unusable(manifest, "it is no object")
    return _Validator(schema, registry=_NOTHING_ELSE)


def _unusable(manifest: Manifest, why: str) -> HttpProblem:
    name = f"{manifest.app}.{manifest.function}"
    return HttpProblem(502, "bad_schema", f"the JSON Schema of {name} can't be used: {why}", hint="deploy it again")


def _faults(validator: Any, arguments: dict[str, Any]) -> list[Fault]:
    faults: list[Fault] = []
    try:
        for error in validator.iter_errors(arguments):
            faults.append(Fault(pointer=_pointer(error), detail=_said(error)))
            if len(faults) >= SCHEMA_ERRORS_MAX:
                break
    except RecursionError:
        raise HttpProblem(422, "wrong_arguments", "the arguments are nested too deep") from None
    except Unresolvable as error:
        raise HttpProblem(502, "bad_schema", f"the function's JSON Schema refers to nothing: {error}"[:300]) from None
    except Exception as error:  # A schema that is none shows in many ways.
        raise HttpProblem(502, "bad_schema", f"the function's JSON Schema is none: {error}"[:300]) from None
    return faults


def _pointer(error: Any) -> str:
    path = list(error.absolute_path)
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _said(error: Any) -> str:
    """What jsonschema says, without values that may be long."""
    best = error
    # Of a union, the alternative that went furthest tells most.
    while best.context:
        best = max(best.context, key=lambda one: len(one.absolute_path))
    text = str(best.message)
    return text if len(text) <= _DETAIL_CHARS_MAX else text[: _DETAIL_CHARS_MAX - 3] + "..."
