"""The developer's side of the jax lane: functions are traced here, and travel as data. jax is imported in here alone.

``program``     the programs of one function, by signature of the call: ``find``, ``for_deploy``, ``Traced``
``signatures``  what a call's arguments are: shapes, dtypes, static values; the key of its program
``values``      single leaves of it: dtypes as jit has them
``hints``       shapes from annotations (jaxtyping)
``dims``        dimensions: numbers, names, and expressions of names
``export``      ``jax.export`` for every platform that works, and why others don't
``refusals``    errors of tracing and export as sentences that say what to do
``trees``       pytrees as the JSON trees of ``fleet.protocol.jax_bundle``, and results from them
``kept``        the mark of what stays on the device
``results``     results from data; references to what is kept
``arguments``   leaves as numpy arrays, as bytes
``refs``        references to arrays (``fleet.put``)
``stored``      values of ``fleet.put`` in the form that programs take
``kept_refs``   references to what stayed on a device: numpy alone
``named``       arguments and results of a function found by name: numpy alone
``params``      the weights of ``params=``
"""
