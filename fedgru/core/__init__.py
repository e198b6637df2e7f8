"""What everything else stands on: errors, seeds, metrics, how JAX is set up.

Imports nothing of fedgru.
"""
