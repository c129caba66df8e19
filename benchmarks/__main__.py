"""``fleet bench`` and ``python -m benchmarks`` run this."""

from benchmarks.run import main

main()
