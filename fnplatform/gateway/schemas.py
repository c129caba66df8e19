"""Arguments against the JSON Schema that a deploy derived from the function's signature.

A schema comes from whoever deployed, so it is used with care: it may refer to nothing outside itself, and its checks take
time in proportion to the arguments.
"""

from __future__ import annotations

import functools
import json
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import anyio.to_thread
from jsonschema import Draft202012Validator, ValidationError, validators
from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as PydanticError
from referencing import Registry
from referencing.exceptions import Unresolvable

from fleet._event import PICKLE_PROTOCOL
from fleet._json_arguments import Unfit, arguments_of
from fleet.protocol.messages import FunctionInfo, Manifest
from fnplatform.gateway.bounds import SCHEMA_ERRORS_MAX, SCHEMAS_MAX
from fnplatform.gateway.problems import Fault, HttpProblem

_DETAIL_CHARS_MAX = 300


def _unique(_validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """jsonschema's own compares each with each where it can't sort them."""
    if wanted and isinstance(value, list) and len({json.dumps(one, sort_keys=True) for one in value}) != len(value):
        yield ValidationError("has an element twice")


def _pattern(_validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and isinstance(wanted, str) and not _matches(wanted, value):
        yield ValidationError(f"does not match {wanted!r}")


def _matches(pattern: str, text: str) -> bool:
    """Python's own regular expressions can take for ever; these take linear time. What they can't express passes."""
    try:
        _matcher(pattern).validate_python(text)
    except SchemaError:
        return True
    except PydanticError:
        return False
    return True


@functools.lru_cache(SCHEMAS_MAX)
def _matcher(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _unchecked(*_: Any) -> Iterator[ValidationError]:
    return iter(())


class _Compiled(NamedTuple):
    schema: dict[str, Any]
    validator: Any


_Validator: Any = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"uniqueItems": _unique, "pattern": _pattern, "patternProperties": _unchecked}
)
_NOTHING_ELSE: Registry[Any] = Registry()
"""Without it, jsonschema fetches what a ``$ref`` names from wherever it lies."""


class Schemas:
    """Compiled schemas by version."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[tuple[str, str], _Compiled] = OrderedDict()

    async def payload(self, info: FunctionInfo, arguments: dict[str, Any], *, small: bool) -> bytes:
        """The arguments of a call as a sandbox unpickles them.

        HttpProblem 422 that points at what doesn't fit, 415 where the function takes what JSON can't say.
        """
        compiled = self._of(info)
        if small:
            return _payload(info.manifest, compiled, arguments)
        return await anyio.to_thread.run_sync(_payload, info.manifest, compiled, arguments)

    def _of(self, info: FunctionInfo) -> _Compiled | None:
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


def _compiled(manifest: Manifest) -> _Compiled:
    schema = schema_of(manifest)
    if not isinstance(schema, dict):
        raise _unusable(manifest, "it is no object")
    return _Compiled(schema, _Validator(schema, registry=_NOTHING_ELSE))


def _payload(manifest: Manifest, compiled: _Compiled | None, values: dict[str, Any]) -> bytes:
    args: tuple[Any, ...] = ()
    try:
        if compiled is not None:
            faults = _faults(compiled.validator, values)
            if faults:
                raise _wrong(manifest, faults)
            args, values = arguments_of(compiled.schema, values)
        # The same bytes whatever the order: an Idempotency-Key stands for them.
        return pickle.dumps((args, {name: values[name] for name in sorted(values)}), PICKLE_PROTOCOL)
    except Unfit as error:
        raise _wrong(manifest, [Fault(pointer=error.pointer, detail=error.detail)]) from None
    except RecursionError:
        raise HttpProblem(400, "bad_json", "the body is nested too deep") from None


def _wrong(manifest: Manifest, faults: list[Fault]) -> HttpProblem:
    return HttpProblem(
        422, "wrong_arguments", f"the arguments don't fit {manifest.app}.{manifest.function}{manifest.signature}"[:1000],
        hint=f"GET /v1/apps/{manifest.app}/functions has its JSON Schema", errors=faults,
    )  # fmt: skip


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
        raise
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
