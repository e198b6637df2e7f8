"""`fedgru report`: evaluated runs -> one HTML file that needs nothing else."""
