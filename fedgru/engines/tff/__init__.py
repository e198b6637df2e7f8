"""The same steps as TensorFlow Federated computations."""
