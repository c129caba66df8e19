"""The parts of ``fleet.protocol.codec``: ``kinds`` is what is on the wire, ``encode*`` writes it, ``decode*`` reads it."""
