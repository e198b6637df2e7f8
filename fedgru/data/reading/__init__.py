"""Check-in files to columns of check-ins: rows are split, checked and sorted."""
