"""The command line: each command parses, calls one function and prints.

`main` is the program; a command of another file is imported when it is asked for, so that
`fedgru --help` answers at once.
"""
