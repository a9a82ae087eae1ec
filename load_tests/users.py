"""The scenarios as users of Locust: for its web page, and for its own command line.

Only for Locust and the packages it brings: no other package is needed. Each user of a scenario
asks, reads, thinks for a moment and asks again. A user of `Arrivals` sends one request a second on
average, whatever the answers do: so many users, so many requests a second.
"""

import itertools
import logging
import os
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import gevent
from gevent.lock import Semaphore
from gevent.pool import Group
from locust import User, between, constant, task

from load_tests.client import Client
from load_tests.key import key_of
from load_tests.locust_entries import enter
from load_tests.probing import Known, Probe
from load_tests.scenarios import SCENARIOS
from load_tests.scenarios.ask import World

MOST_IN_FLIGHT = 100
"""Of one user of `Arrivals`."""

IDLE_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Stage:
    """What all users of a process share: what is known of the gateway, and who sends what."""

    def __init__(self) -> None:
        self._lock = Semaphore()
        self._known: Known | None = None
        self._numbers: dict[str, Iterator[int]] = defaultdict(itertools.count)
        self._salt = f"{secrets.randbelow(10**6):06}"
        self.only_host = os.environ.get("ONLY_HOST") or None
        """Whoever reaches the page can name another host there, to which the key would go."""
        self.key = key_of(os.environ, self.only_host or "")

    def known(self, host: str) -> Known:
        """Asked once. Raises `ProbeError`."""
        with self._lock:
            if self._known is None:
                model = os.environ.get("MODEL_NAME") or None
                self._known = Probe(host, self.key).ask(tuple(SCENARIOS), model)
                for name, why in self._known.left_out.items():
                    _log.warning("%s is left out: %s", name, why)
            return self._known

    def world(self, host: str) -> World:
        """Requests differ from process to process."""
        known = self.known(host)
        return World(
            model=known.model,
            embedding_model=known.embedding_model,
            salt=self._salt,
            tokens_per_word=known.tokens_per_word,
            context_tokens=known.context_tokens,
            takes_ignore_eos=known.takes_ignore_eos,
        )

    def next(self, scenario: str) -> int:
        """A number that no other user of this process has."""
        return next(self._numbers[scenario])


class ScenarioUser(User):
    """Asks what its scenario says."""

    abstract = True
    stage = Stage()
    scenario = ""

    def on_start(self) -> None:
        """Raises `ProbeError` when there is no gateway; Locust shows that."""
        host = self.stage.only_host or self.host or self.environment.host or ""
        self._world = self.stage.world(host)
        self._can_do = self.scenario not in self.stage.known(host).left_out
        needs_usage = self.stage.known(host).needs_usage
        self._client = Client(host, self.stage.key, time.monotonic, needs_usage=needs_usage)

    def on_stop(self) -> None:
        """Ends its connections."""
        if hasattr(self, "_client"):
            self._client.close()

    def _measure(self, scenario: str, intended: float | None = None) -> None:
        asked = SCENARIOS[scenario](self._world, self.stage.next(scenario))
        enter(self.environment, self._client.measure(asked, intended))


class Thinker(ScenarioUser):
    """Waits for the answer, and thinks before the next question."""

    abstract = True
    wait_time = between(0.5, 2.0)

    @task
    def ask(self) -> None:
        """One request."""
        if self._can_do:
            self._measure(self.scenario)
        else:
            gevent.sleep(IDLE_SECONDS)


class Short(Thinker):
    scenario = "short"
    weight = 3


class Medium(Thinker):
    scenario = "medium"
    weight = 3


class Long(Thinker):
    scenario = "long"


class Chat(Thinker):
    scenario = "chat"
    weight = 3


class Retrieval(Thinker):
    scenario = "retrieval"


class Json(Thinker):
    scenario = "json"


class Tools(Thinker):
    scenario = "tools"


class Cancellers(Thinker):
    scenario = "cancellers"


class Embeddings(Thinker):
    scenario = "embeddings"


class Jobs(Thinker):
    scenario = "jobs"


class Arrivals(ScenarioUser):
    """An open loop: short and medium questions at random moments, one a second on average."""

    wait_time = constant(0)

    def on_start(self) -> None:
        super().on_start()
        self._group = Group()
        self._due = time.monotonic()

    def on_stop(self) -> None:
        if hasattr(self, "_group"):
            self._group.kill()
        super().on_stop()

    @task
    def ask(self) -> None:
        """Waits for the next arrival, not for its answer."""
        self._due += random.expovariate(1.0)
        gevent.sleep(max(0.0, self._due - time.monotonic()))
        scenario = random.choice(("short", "medium"))  # noqa: S311
        if len(self._group) >= MOST_IN_FLIGHT:
            self._refuse(scenario)
            return
        self._group.start(gevent.Greenlet(self._measure, scenario, self._due))

    def _refuse(self, scenario: str) -> None:
        """Said aloud: from here on the figures look better than the load that was asked for."""
        told: dict[str, Any] = {"response_time": 0, "response_length": 0, "context": {}}
        unsent = RuntimeError(f"not sent: {MOST_IN_FLIGHT} are in flight")
        self.environment.events.request.fire(
            request_type="POST", name=scenario, exception=unsent, **told
        )
