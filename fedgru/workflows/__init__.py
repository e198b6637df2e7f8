"""What one command does, callable from Python: train, score, baseline, data_check."""
