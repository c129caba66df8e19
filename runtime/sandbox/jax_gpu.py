"""What a slot of the lane ``jax-gpu`` needs beyond one of ``jax-cpu``: NVIDIA's device files, and CUDA as it can be locked in.

Written by CUDA's documentation and without a graphics card at hand: none of this project's tests starts this lane. Weaker than
``jax-cpu``: ioctl on the driver's open files stays allowed, and the driver is a large part of the kernel. No file is opened
after the start here either, so what CUDA opens late has to be opened by the warm-up (``jax_start``); a slot in which it
isn't fails its first job and says so.
"""

from __future__ import annotations

import dataclasses
import glob

from runtime.sandbox.lockdown import Plan

READABLE = ("/sys/bus/pci", "/sys/devices/pci0000:00", "/sys/module/nvidia", "/etc/ld.so.conf", "/usr/local/cuda")
"""Beside the folders of imports; ``/proc/driver/nvidia`` lies under what every jax slot reads."""
ENVIRONMENT = {
    "CUDA_CACHE_DISABLE": "1",  # It would write beneath the home folder.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # Several slots share a card.
    # Compile in this process: starting ptxas is one of the things that a slot can't.
    "XLA_FLAGS": "--xla_gpu_enable_libnvptxcompiler=true --xla_gpu_force_compilation_parallelism=1",
}
_FILES_MAX = 512
"""CUDA keeps tens of files open for each card."""


def devices() -> list[str]:
    """Device files of the cards of this machine, and of the driver."""
    found = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/nvidia-caps/nvidia-cap[0-9]*")
    return ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", *sorted(found)]


def plan(usual: Plan) -> Plan:
    """The limits of such a slot: the card's memory is the client's to bound, and CUDA maps much of it into the process."""
    return dataclasses.replace(usual, files_max=usual.files_max + _FILES_MAX, data_bytes_max=None)
