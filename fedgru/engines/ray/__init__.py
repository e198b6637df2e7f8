"""The jax engine's local training in many processes, by Ray."""
