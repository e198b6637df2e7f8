"""Models as pure functions of their weights, and the same models in stock Keras."""
