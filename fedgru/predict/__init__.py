"""What a trained model answers on its own: its schema, one person's past, the next place."""
