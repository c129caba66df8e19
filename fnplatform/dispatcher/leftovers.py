"""Remove what a broken broker left in the queue: messages of calls that have their outcome.

A settled message is acknowledged, which nobody answers: what was on its way when the broker was killed is lost, and after its
restart the broker may show messages again whose removal it hadn't written down, or never deliver them because it did write
down the acknowledgement. (All of it seen in the chaos run of events: some hundred of 100,000 after three kills.) The next
leader would find them, since it reads everything anew; this looks after each reconnect.
"""

from __future__ import annotations

import logging

import anyio

from fleet.protocol.errors import FleetError
from fleet.protocol.subjects import INVOCATION, OUTCOME, STREAM_INVOCATIONS, STREAM_OUTCOMES
from fnplatform.dispatcher.state import Board
from fnplatform.jetstream import JetStream

log = logging.getLogger("fleet.dispatcher")


TIDY_S = 1.5
"""What was on its way at a reconnect has arrived by then, mostly."""


async def tidy(js: JetStream, partition: str, board: Board) -> None:
    """Remove leftovers after each reconnect, until cancelled."""
    seen = js.bus.reconnects
    while True:
        await anyio.sleep(TIDY_S)
        now = js.bus.reconnects
        if now == seen or not js.bus.connected or board.adopting:
            continue
        try:
            await remove_leftovers(js, partition, board)
            seen = now
        except FleetError as error:
            log.info("can't look for leftovers yet: %s", error)


async def remove_leftovers(js: JetStream, partition: str, board: Board) -> int:
    """Remove messages of calls that this leader doesn't know and that have an outcome; how many."""
    removed = 0
    for subject in await js.subjects(STREAM_INVOCATIONS, INVOCATION.wildcard(partition=partition)):
        names = INVOCATION.parse(subject)
        if names is None or (names["tenant"], names["call"]) in board.entries:
            continue
        found = await js.get_last(STREAM_INVOCATIONS, subject)
        if found is None or found.seq in board.by_seq:
            continue
        names.pop("partition")
        if await js.get_last(STREAM_OUTCOMES, OUTCOME.build(**names)) is None:
            continue  # it is new, and on its way here
        removed += await js.delete_seq(STREAM_INVOCATIONS, found.seq)
    if removed:
        log.info("%d settled calls were still in the queue", removed)
    return removed
