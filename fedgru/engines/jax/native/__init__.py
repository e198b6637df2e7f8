"""Local steps and the forward pass in C: compiled on first use, for the processor at hand.

`compiler` makes the library and keeps it, `calls` calls it. It is compiled as late as XLA's code,
and for the same reason: then the processor is known. XLA (`fedgru/engines/jax/local_steps.py`) does
what the C code cannot do, and everything where there is no C compiler.
"""
