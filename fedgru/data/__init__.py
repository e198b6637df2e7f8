"""Check-ins and data sets: reading files, made-up cities, and the folder they are kept in."""
