"""Printed lines on their way from a car: nothing lost while the connection is broken, everything bounded, every cut visible."""

from __future__ import annotations

from fleet.protocol import frames
from fleet.protocol.limits import LOG_LINE_BYTES_MAX, MESSAGE_BYTES_MAX
from fleet.protocol.messages import Lease, LogLines
from runtime import agent_logs
from runtime.agent_logs import Answered, LogBatches


def lease(counter: int) -> Lease:
    return Lease(call=f"c{counter}", seq=counter, epoch=1, counter=counter, car="car-1", mac="0" * 32)


class Link:
    def __init__(self) -> None:
        self.up = True
        self.sent: list[LogLines] = []
        self.retries = 0
        self.logs = LogBatches(self.send, self.retry)

    def send(self, lines: LogLines, answered: Answered) -> None:
        if self.up:
            self.sent.append(lines)
        answered(self.up)

    def retry(self) -> None:
        self.retries += 1

    @property
    def texts(self) -> list[str]:
        return [text for one in self.sent for _, _, text in one.lines]


def test_lines_wait_while_the_connection_is_broken_and_come_in_order() -> None:
    link = Link()
    link.up = False
    for number in range(3):
        link.logs.add(lease(1), [(float(number), 1, f"line {number}")])
        link.logs.flush()
        assert link.retries > number
    link.up = True
    link.logs.add(lease(1), [(9.0, 2, "last")])
    link.logs.flush()
    assert link.texts == ["line 0", "line 1", "line 2", "last"] and link.logs._bytes == 0
    assert [stream for one in link.sent for _, stream, _ in one.lines] == ["stdout", "stdout", "stdout", "stderr"]


def test_lines_of_a_chunk_say_which_item_printed_them() -> None:
    link = Link()
    link.logs.add(lease(1), [(0.0, 1, "a"), (0.0, 1, "b")], 4)
    link.logs.add(lease(1), [(0.0, 1, "c")], 4)
    link.logs.add(lease(1), [(0.0, 1, "d")], 5)
    link.logs.add(lease(2), [(0.0, 1, "e")])
    link.logs.flush()
    assert [(one.lease.counter, one.items) for one in link.sent] == [(1, [(4, 3), (5, 1)]), (2, [])]


def test_a_burst_that_a_call_may_print_is_not_cut() -> None:
    link = Link()
    lines = [(0.0, 1, "x" * 19)] * (agent_logs.LOG_BYTES_PER_CALL_MAX // 20)
    link.logs.add(lease(1), lines)
    link.logs.flush()
    assert len(link.texts) == len(lines) and link.logs.dropped == 0
    assert len(link.sent) > 1, "no message is too large"


def test_what_a_slot_says_of_one_call_is_bounded_and_the_cut_is_seen() -> None:
    link = Link()
    for _ in range(100):
        link.logs.add(lease(1), [(0.0, 1, "\0" * (2 * LOG_LINE_BYTES_MAX))] * 10)
        link.logs.flush()
    link.logs.add(lease(2), [(0.0, 1, "another call's")])
    link.logs.flush()
    assert sum(map(len, link.texts)) < agent_logs.CALL_BYTES_MAX + 2 * LOG_LINE_BYTES_MAX
    assert link.texts[-1] == "another call's" and "output cut" in link.texts[-2]
    assert sum("output cut" in text for text in link.texts) == 1 and link.logs.dropped > 0
    assert all(len(frames.pack(one)) < MESSAGE_BYTES_MAX for one in link.sent)


def test_what_waits_for_the_connection_is_bounded() -> None:
    link = Link()
    link.up = False
    for call in range(100):
        link.logs.add(lease(call), [(0.0, 1, "x" * 10_000)] * 50)
    assert link.logs._bytes < agent_logs.PENDING_BYTES_MAX + 2 * LOG_LINE_BYTES_MAX
    link.up = True
    link.logs.flush()
    assert sum("output cut" in text for text in link.texts) == 1
    link.logs.add(lease(200), [(0.0, 1, "again")])
    link.logs.flush()
    assert link.texts[-1] == "again"
