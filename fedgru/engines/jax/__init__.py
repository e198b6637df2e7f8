"""The fast engine: compiled by JAX, and by C code (`native`) where that can be used."""
