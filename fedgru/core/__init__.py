"""The base of all other packages: errors, seeds, metrics, how JAX is set up.

Imports no other package of fedgru.
"""
