"""What jax says of this machine: asked in a child process, once, by however many agents."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from fleet.cli.cars import lanes_of
from fleet.protocol.messages import Device, Offer
from runtime import devices


def test_jax_is_asked_once_and_the_agent_never_imports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = devices._ask
    monkeypatch.setattr(devices, "_ask", lambda: asked.append(1) or ask())
    answers: list[tuple[Device, ...]] = []
    agents = [threading.Thread(target=lambda: answers.append(devices.devices(tmp_path))) for _ in range(3)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join()
    assert len(asked) == 1 and answers[0] == answers[1] == answers[2]
    cpu = answers[0][0]
    assert cpu.lane == "jax-cpu" and cpu.kind and cpu.memory_bytes > 1 << 28
    assert 0 < cpu.calling_convention_min <= cpu.calling_convention_max and cpu.stablehlo.count(".") == 2
    assert cpu.jaxlib == devices.jaxlib_version()
    (kept,) = tmp_path.glob("jax-devices-*.json")
    kept.write_text("nonsense")
    monkeypatch.setattr(devices, "_ask", lambda: (cpu,))
    assert devices.devices(tmp_path) == (cpu,) and "jax-cpu" in kept.read_text()


def test_a_jax_that_does_not_start_is_a_car_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ((sys.executable, "-c", "raise SystemExit('broken')"), (sys.executable, "-c", "print('[7]')")):
        monkeypatch.setattr(devices, "PROBE", command)
        assert devices.devices(tmp_path) == ()
    assert not list(tmp_path.glob("*.json")), "a failure isn't kept"
    monkeypatch.setattr(devices, "jaxlib_version", lambda: None)
    monkeypatch.setattr(devices, "_ask", lambda: pytest.fail("there is no jax to ask"))
    assert devices.devices(tmp_path) == ()


def test_fleet_cars_names_the_card() -> None:
    card = Device(lane="jax-gpu", kind="NVIDIA H200", memory_bytes=139 << 30)
    cpu = Device(lane="jax-cpu", kind="a processor")
    offer = Offer(lanes=["wasm", "jax-cpu", "jax-gpu"], devices=[cpu, card])
    assert lanes_of(offer) == "wasm, jax-cpu, jax-gpu (NVIDIA H200, 139 GiB)"
