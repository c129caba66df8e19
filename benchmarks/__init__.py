"""The project's own benchmark: ``make bench``, ``fleet bench``. One module per figure; see ``run.py``."""
