"""User-level differential privacy: what is released with which noise, and the epsilon of it all."""
