"""Local steps and the forward pass in C: compiled on first use, for the processor at hand.

`compiler` makes the library and keeps it, `calls` calls it. XLA compiles just as late and for the
same reason: only then is it known what the processor can do. What the C code does not know, and all
where there is no C compiler, XLA does (`fedgru/engines/jax/local_steps.py`).
"""
