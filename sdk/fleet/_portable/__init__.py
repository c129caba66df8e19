"""How functions, classes and arguments get into a sandbox of another Python: as pickles that hold source, never bytecode.

``pickler`` takes things apart (``classes``, ``attrs_classes``, ``kinds``), ``source`` finds the text of a function and
proves it, ``world`` knows what the sandbox has, ``arguments`` packs what calls are given, ``blame`` says what can't travel.
``fleet._rebuild`` is the other end.
"""
