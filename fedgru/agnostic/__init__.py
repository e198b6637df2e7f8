"""Agnostic training: representations that do not reveal a protected concept.

Source: Jia, Lansdall-Welfare, Cristianini 2018 (doi:10.1007/978-3-030-01768-2_14). Images and
check-ins share an objective over a target loss, a protected loss and alpha; a schedule for alpha;
and an audit of a frozen representation by fresh probes. `concepts` and `protection` apply these to
check-ins.
"""
