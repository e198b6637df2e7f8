"""`python cli.py ...` is the same program as the installed `fedgru`."""

from fedgru.cli.main import main

if __name__ == "__main__":
    main()
