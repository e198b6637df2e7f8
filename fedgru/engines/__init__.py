"""Where clients train: engines by name in `registry`, what they share in `base`."""
