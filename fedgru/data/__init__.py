"""Check-ins and data sets: reading files, made-up cities, and the folder of data sets."""
