"""Tells a task that somebody ended from code that raises `CancelledError` by itself."""

import asyncio


def is_wanted() -> bool:
    """Whether a `CancelledError` that was just caught is for the running task.

    If not, whatever it awaited has raised it: a future that a handler's library cancelled, for one.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
