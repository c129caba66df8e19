"""JetStream as the dispatcher uses it: one message per subject, compare-and-set by sequence, and it survives everything.

Shaped after what the real one does (``fnplatform/jetstream.py``, ``fnplatform/dispatcher/stores.py``); the contract of the
two is the same: expected last sequence, first writer wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet.protocol.messages import InvocationState, Manifest, OutcomeRecord


@dataclass
class Store:
    """What is durable."""

    seq: int = 0
    epoch: int = 0
    invocations: dict[str, tuple[int, InvocationState]] = field(default_factory=dict)
    outcomes: dict[str, OutcomeRecord] = field(default_factory=dict)
    parts: dict[str, list[OutcomeRecord]] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def add(self, state: InvocationState) -> int:
        """Queue a call; 0 if its subject holds one."""
        if state.call in self.invocations:
            return 0
        self.seq += 1
        self.invocations[state.call] = (self.seq, state)
        return self.seq

    def replace(self, state: InvocationState, expected_seq: int) -> int:
        """Put the next state in the place of the one with ``expected_seq``; 0 if it isn't there."""
        known = self.invocations.get(state.call)
        if known is None or known[0] != expected_seq:
            return 0
        self.seq += 1
        self.invocations[state.call] = (self.seq, state)
        return self.seq

    def remove(self, seq: int) -> None:
        """Settle a message."""
        for call, (known, _) in list(self.invocations.items()):
            if known == seq:
                del self.invocations[call]

    def commit(self, record: OutcomeRecord) -> bool:
        """First writer wins, for the final record and for each part."""
        if record.final:
            if record.call in self.outcomes:
                return False
            self.outcomes[record.call] = record
            return True
        known = self.parts.setdefault(record.call, [])
        if any(one.part == record.part for one in known):
            return False
        known.append(record)
        return True
