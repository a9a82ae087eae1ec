"""Turns an engine's configuration and the machine's memory into the engine's flags and the planned
lines of `.env`. Pure but for `model_size.py`, which reads a model; `commands/plan.py` prints.
"""
