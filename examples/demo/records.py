"""Ask the platform for the outcome records of calls: what was stored of them, metering included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from fleet.cli.ask import connected
from fleet.protocol import frames
from fleet.protocol.limits import LIST_ROWS_MAX
from fleet.protocol.messages import CallsRequest, OutcomeRecord, ResultReply, ResultRequest, StatusReply
from fleet.protocol.subjects import ApiVerb

if TYPE_CHECKING:
    from fleet._api import Api


async def records_of_function(url: str, app: str, function: str) -> list[OutcomeRecord]:
    """The records of a function's newest calls (at most LIST_ROWS_MAX calls)."""
    async with connected(url) as api:
        request = CallsRequest(app=app, function=function, limit=LIST_ROWS_MAX)
        listed, _ = await api.ask(ApiVerb.CALLS, request, StatusReply)
        return [record for status in listed.calls async for record in _records(api, status.call)]


async def records_of_calls(url: str, calls: Iterable[str]) -> list[OutcomeRecord]:
    """The records of these calls, in their order."""
    async with connected(url) as api:
        return [record for call in calls async for record in _records(api, call)]


async def _records(api: Api, call: str) -> AsyncIterator[OutcomeRecord]:
    part = 0
    while True:
        reply, packed = await api.ask(ApiVerb.RESULT, ResultRequest(call=call, part_from=part), ResultReply)
        for one in packed:
            record, _ = frames.unpack(one, OutcomeRecord)
            part = record.part + 1
            yield record
        if not reply.more or not packed:
            return
