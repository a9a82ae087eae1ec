"""How long to pause between tries, and how many tries all requests together may add. Pure."""

from api_server.inference.catalogue import Retries


def pause_seconds(retries: Retries, failures: int, chance: float) -> float:
    """The pause after so many failures: full jitter, `chance` lies between 0 and 1."""
    longest = retries.first_delay_seconds * 2.0 ** min(failures, 32)
    return chance * min(retries.max_delay_seconds, longest)


class RetryBudget:
    """Lets requests be sent again only as a share of the traffic, so that a model in trouble does
    not get more of it. `reserve` may be spent at once: what one engine had when it died.
    """

    def __init__(self, share: float, reserve: float) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    def deposit(self) -> None:
        """Count one request."""
        self._left = min(self._reserve, self._left + self._share)

    def withdraw(self) -> bool:
        """Whether one more request may be sent again."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
