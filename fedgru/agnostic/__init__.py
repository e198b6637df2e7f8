"""Agnostic training: representations from which a protected concept cannot be read.

Source: Jia, Lansdall-Welfare, Cristianini 2018 (doi:10.1007/978-3-030-01768-2_14). The modules here
know neither images nor check-ins: an objective over a target loss, a protected loss and alpha; a
schedule for alpha; and an audit of a frozen representation by fresh probes.
"""
