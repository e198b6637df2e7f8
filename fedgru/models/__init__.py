"""Models as pure functions of their weights, and the same ones in stock Keras."""
