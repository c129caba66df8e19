"""What functions learn about the car they run on."""

from __future__ import annotations

from runtime.agent_config import AgentConfig


def test_a_pseudonym_is_stable_and_tells_nothing() -> None:
    one = AgentConfig("car-1", "boot")
    name = one.pseudonym("default")
    assert name == AgentConfig("car-1", "boot").pseudonym("default") and len(name) == 12
    others = [one.pseudonym("acme"), AgentConfig("car-1", "again").pseudonym("default"),
              AgentConfig("car-2", "boot").pseudonym("default")]  # fmt: skip
    assert len({name, *others}) == 4
    assert not any("car" in text for text in (name, *others))
