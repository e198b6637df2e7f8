"""Weights and clients to numbers: metrics, baselines, comparison of runs, the audit."""
