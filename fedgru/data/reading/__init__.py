"""Check-in files to columns of check-ins: rows are cut, checked and put in order."""
