"""Verbs of the command line, one file each: `EXPLANATION`, `add_arguments`, `run`."""
