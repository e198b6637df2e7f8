"""`python -m fedgru ...` is the same program as the installed `fedgru`."""

from fedgru.cli.main import main

main(prog_name="fedgru")
