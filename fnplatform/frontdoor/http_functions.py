"""Functions that HTTP requests may start, and whether that has changed: asked for with every request, so it is cheap.

The newest sequence among a tenant's app records is their revision: every deploy, rollback and delete writes a record (a
delete leaves a marker), and nothing else does.
"""

from __future__ import annotations

from fleet.protocol import limits
from fleet.protocol.messages import AppRecord, FunctionInfo, HttpTrigger
from fleet.protocol.subjects import BUCKET_FUNCTIONS
from fnplatform.jetstream import JetStream
from fnplatform.registry import Registry, live_version

APPS_MAX = 100_000


async def http_functions(js: JetStream, registry: Registry, tenant: str, known: int) -> tuple[int, list[FunctionInfo]]:
    """(revision, live functions with a trigger of ``fleet.http``); (``known``, nothing) if that is still the revision."""
    stream, subject = f"KV_{BUCKET_FUNCTIONS}", f"$KV.{BUCKET_FUNCTIONS}.app.{tenant}.>"
    if known and await js.get_next(stream, subject, known + 1) is None:
        return known, []
    stored = await js.get_last_of_each(stream, [subject], APPS_MAX)
    found = []
    for message in sorted(stored, key=lambda one: one.subject):
        if message.operation:  # deleted
            continue
        record = AppRecord.model_validate_json(bytes(message.data))
        live = live_version(record)
        for function, version in sorted(live.functions.items()):
            manifest = await registry.lookup(tenant, record.app, function, version)
            if any(isinstance(trigger, HttpTrigger) for trigger in manifest.triggers):
                found.append(FunctionInfo(manifest=manifest, version=version, app_number=live.number))
    return max((message.seq for message in stored), default=0), found[: limits.LIST_ROWS_MAX]
