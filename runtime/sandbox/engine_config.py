"""How guest code is compiled and run: one set of settings for the ahead-of-time compiler and for the slots.

An AOT file fits only the settings it was compiled with; they are part of the guest's digest. Imports nothing: the agent
needs the digest, but not wasmtime.
"""

CONFIG: dict[str, bool | int | str] = {
    "wasm_component_model": True,
    "cranelift_opt_level": "speed",
    # One bit pattern for every NaN, so that results can be compared bit by bit. Costs nothing that could be measured.
    "cranelift_nan_canonicalization": True,
    # The whole 4 GiB that a guest can address is reserved: its memory never moves, so its base is found once.
    "memory_reservation": 4 << 30,
    "memory_may_move": False,
}
"""No epochs and no fuel: they cost 23 % of interpreter speed and don't stop host calls; time is up by SIGKILL."""

CONFIG_ID = repr(sorted(CONFIG.items()))
