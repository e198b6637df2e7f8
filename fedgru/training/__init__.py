"""The round loop, when it stops, and training without federation or beyond it."""
