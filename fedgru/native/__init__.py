"""The local steps in C: compiled on first use for the processor at hand, and kept.

`compiler` makes the library, `local_steps` calls it. XLA compiles just as late, and for the
same reason: only then is it known what the processor can do. What the C code cannot do, and where
there is no C compiler, `fedgru/engines/local_steps.py` does.
"""
