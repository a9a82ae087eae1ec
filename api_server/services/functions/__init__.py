"""Functions of the operator's that runs of assistants call here."""
