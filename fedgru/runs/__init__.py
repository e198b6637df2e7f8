"""The run folder: its files, its checkpoints, and copies for TensorBoard and MLflow."""
