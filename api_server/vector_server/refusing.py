"""Requests that the server does not do."""


class RequestRefused(Exception):  # noqa: N818 - no error of this program
    """The status and the sentence that a request gets."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
