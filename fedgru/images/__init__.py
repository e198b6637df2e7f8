"""The image experiment of the agnostic paper: data, training, the sweep over alpha."""
