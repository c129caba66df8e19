"""What runs inside the wasm guest: CPython 3.14 for WASI. Imported there as the package ``_fleet_guest``.

Everything here is standard library, cloudpickle and the standard-library part of ``fleet``. Modules are imported when the
guest is built and live in its snapshot; at run time there is no file system to import from.
"""
