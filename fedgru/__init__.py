"""Federated next-place prediction: train, evaluate and question a stateful GRU."""

__version__ = "0.1.0"
