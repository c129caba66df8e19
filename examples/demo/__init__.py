"""The tour that ``make demo`` and ``fleet demo`` run."""
