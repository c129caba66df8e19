"""The contracts between developers, control plane and cars: limits, errors, ids, subjects, frames, messages, codec.

No I/O here, and nothing of ours is imported from outside this package. ``codec``, ``errors``, ``limits``, ``ids``,
``units`` and ``options`` use the standard library alone, because they also run inside the wasm guest.
"""
