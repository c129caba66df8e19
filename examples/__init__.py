"""Programs to read and to run: each works as a plain script against a running ``fleet dev``."""
