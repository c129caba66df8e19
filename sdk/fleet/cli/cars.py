"""Cars: ``cars`` shows them, ``car`` runs one or drives those of a ``fleet dev``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fleet.cli import show
from fleet.protocol.errors import InvalidOption

if TYPE_CHECKING:
    from fleet.protocol.messages import CarInfo, Offer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CAR = Annotated[str | None, typer.Argument(metavar="CAR", help="Which car; default: all of them.")]
Action = Literal["drive", "park", "plug", "unplug", "pause", "resume"]
ACTIONS: dict[Action, str] = {
    "drive": "The owner drives away: the car is at zero within milliseconds.",
    "park": "The car is parked again.",
    "plug": "The charging cable is plugged in.",
    "unplug": "The charging cable is pulled out.",
    "pause": "The owner pauses the car's work.",
    "resume": "The owner lets it go on.",
}
COLUMNS = ("CAR", "STATE", "REASONS", "SINCE", "SLOTS", "LANES", "RUNNING", "HEARD", "ISOLATION")
WATCH_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog="Example: fleet cars --watch")(cars)
    car = typer.Typer(no_args_is_help=True, help="Run the agent of one car, or drive the cars of a fleet dev.")
    car.command(epilog="Example: fleet car run --name car-7 --slots 2")(run)
    for action, line in ACTIONS.items():
        car.command(action, help=line, epilog=f"Example: fleet car {action} car-1")(_simulator(action))
    app.add_typer(car, name="car")


def cars(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing until Ctrl-C.")] = False,
    as_json: JSON = False,
) -> None:
    """Every car: state, reasons, slots, what it runs, since when."""
    import anyio

    if watch and as_json:
        raise InvalidOption("--watch is for people and --json for programs: choose one")
    if watch:
        try:
            anyio.run(_watch)
        except KeyboardInterrupt:
            pass
        return
    found = anyio.run(_list)
    if as_json:
        show.data(found)
    else:
        show.table(COLUMNS, [row(one) for one in found])


async def _list() -> list[CarInfo]:
    from fleet.cli.ask import connected
    from fleet.protocol.messages import CarsReply, CarsRequest
    from fleet.protocol.subjects import ApiVerb

    async with connected() as api:
        reply, _ = await api.ask(ApiVerb.CARS, CarsRequest(), CarsReply)
        return reply.cars


async def _watch() -> None:
    import anyio
    from rich.console import Console
    from rich.live import Live

    from fleet.cli.ask import connected
    from fleet.protocol.errors import FleetUnavailable
    from fleet.protocol.messages import CarsReply, CarsRequest
    from fleet.protocol.subjects import ApiVerb

    async with connected() as api:
        with Live(console=Console(), auto_refresh=False, screen=False) as live:
            while True:
                try:
                    found, _ = await api.ask(ApiVerb.CARS, CarsRequest(), CarsReply)
                    live.update(show.make_table(COLUMNS, [row(one) for one in found.cars]), refresh=True)
                except FleetUnavailable as error:  # it comes back: the last table stays until then
                    live.console.print(f"{error.message}; still trying", style="dim")
                await anyio.sleep(WATCH_S)


def row(one: CarInfo) -> tuple[object, ...]:
    """One line of the table."""
    state = "offline" if not one.online else "eligible" if one.standing.eligible else "away"
    layers = f"{len(one.isolation)} layers" if one.isolation else "-"
    missing = f", not {', '.join(one.isolation_missing)}" if one.isolation_missing else ""
    in_wasm = [slot for slot in one.slots if slot.lane == "wasm"]
    spares = sum(slot.state == "spare" for slot in in_wasm)
    others = len(one.slots) - len(in_wasm)
    slots = f"{len(in_wasm) - spares}+{spares}" + (f", {others} jax" if others else "")
    return (
        one.car, state, ", ".join(one.standing.reasons) or "-", show.ago(one.standing.since_unix_s),
        slots, lanes_of(one.offer), ", ".join(one.running) or "-", show.ago(one.heard_unix_s),
        layers + missing,
    )  # fmt: skip


def lanes_of(offer: Offer) -> str:
    """``wasm, jax-cpu, jax-gpu (NVIDIA H200, 139 GiB)``: a card has a name and memory of its own."""
    from fleet.protocol.units import format_bytes

    cards: dict[str, str] = {
        one.lane: f" ({one.kind}, {format_bytes(one.memory_bytes)})" for one in offer.devices if one.lane == "jax-gpu"
    }
    return ", ".join(lane + cards.get(lane, "") for lane in offer.lanes)


def run(
    name: Annotated[str, typer.Option(help="Its name: 1 to 64 of A-Z a-z 0-9 _ -.")],
    slots: Annotated[int | None, typer.Option(help="Slots; default: one per CPU core.")] = None,
    memory: Annotated[str, typer.Option(help="The largest memory= a function may ask for.")] = "1GiB",
    region: Annotated[str, typer.Option(help="Where it is, for requires=.")] = "",
    lanes: Annotated[
        str | None, typer.Option(help="What it runs, of wasm,jax-cpu,jax-gpu; default: all that is possible here.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Replay recorded sessions (CSV, .gz too); default: signals by hand.")
    ] = None,
    station: Annotated[str, typer.Option(help="Station of --trace, or its number by how many sessions it has.")] = "0",
    speed: Annotated[float, typer.Option(help="How much faster than recorded.")] = 1.0,
    soc_floor: Annotated[float, typer.Option(help="Percent of charge below which it does not work.")] = 20.0,
    wifi_only: Annotated[bool, typer.Option("--wifi-only", help="Work on Wi-Fi only.")] = False,
    come_back: Annotated[float, typer.Option(help="Seconds all must hold before it works again.")] = 30.0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for bundles and weights; default: FLEET_CACHE or the XDG cache.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Most space for weights in it; default: 8GiB, or a third of the free space if that is less."),
    ] = None,
) -> None:
    """The agent of one car: what is installed in a vehicle."""
    import os

    from fleet._settings import Settings
    from fleet.cli.status import cache_dir
    from fleet.protocol.ids import check_token
    from fleet.protocol.lanes import parse_lanes
    from fleet.protocol.limits import MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, MIB
    from fleet.protocol.units import parse_bytes
    from runtime.car_main import CarSettings, run_car
    from runtime.standing import OwnerPolicy

    settings = Settings.resolve()
    run_car(
        CarSettings(
            name=check_token(name, "--name"), url=settings.url, creds=settings.creds, trace=trace,
            station=int(station) if station.isdecimal() else station, speed=speed, slots=slots or os.cpu_count() or 1,
            memory_bytes=parse_bytes(memory, "--memory", MEMORY_BYTES_MIN, MEMORY_BYTES_MAX), region=region,
            lanes=parse_lanes(lanes, "--lanes") if lanes is not None else None,
            policy=OwnerPolicy(soc_floor_pct=soc_floor, wifi_only=wifi_only, come_back_s=come_back),
            cache_dir=cache or cache_dir(),
            weights_bytes_max=None if weights is None else parse_bytes(weights, "--weights", MIB, 1024 * 1024 * MIB),
        )
    )  # fmt: skip


def _simulator(action: Action) -> Callable[..., None]:
    def simulate(car: CAR = None, as_json: JSON = False) -> None:
        from fleet.cli.ask import ask_once
        from fleet.protocol.ids import check_token
        from fleet.protocol.messages import Simulate, SimulateReply
        from fleet.protocol.subjects import ApiVerb

        wanted = Simulate(action=action, car=check_token(car, "car") if car else None)
        told = ask_once(ApiVerb.SIMULATE, wanted, SimulateReply).cars
        if as_json:
            show.data({"action": action, "cars": told})
        else:
            show.say(f"{action}: {', '.join(told) or 'no car'}")

    return simulate
