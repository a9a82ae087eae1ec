"""The composition root but for HTTP: builds all services of a process."""

from api_server.composition.whole import ALONE, Services, Worker, compose

__all__ = ["ALONE", "Services", "Worker", "compose"]
