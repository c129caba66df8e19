"""``make demo`` and ``fleet demo`` run this."""

from examples.demo.tour import main

main()
