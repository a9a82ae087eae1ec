"""Contents of files, in a server that speaks S3, through the `minio` client.

That client is synchronous: each call runs in a thread, and time-outs of its sockets end it.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from api_server.errors import SetupError, StoreAwayError

T = TypeVar("T")

REGION = "us-east-1"
"""Of our own servers. Said, so that the client does not ask for it before anything else."""

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0
MOST_CONNECTIONS = 16
NOT_READY = frozenset({500, 502, 503, 504})


class Objects:
    """Nothing connects before the first call.

    Each call raises `StoreAwayError` where the server does not answer or is not ready, `SetupError`
    where it refuses our keys or does not speak S3.
    """

    def __init__(self, url: str, access_key: str, secret_key: str) -> None:
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            maxsize=MOST_CONNECTIONS,
            retries=False,
        )
        parts = urlsplit(url)
        try:
            self._client = Minio(
                parts.netloc + parts.path.rstrip("/"),
                access_key,
                secret_key,
                secure=parts.scheme == "https",
                region=REGION,
                http_client=self._http,
            )
        except ValueError as exc:
            raise SetupError(f"S3_URL: {exc}. It must be as http://minio:9000.") from exc

    async def ensure_bucket(self, name: str) -> bool:
        """Make a bucket that is missing; says whether it was.

        Of several at the same time each succeeds, and more than one may say that it made it.
        """

        def ensure() -> bool:
            if self._client.bucket_exists(name):
                return False
            try:
                self._client.make_bucket(name)
            except MinioException:
                if self._client.bucket_exists(name):  # somebody else was faster
                    return False
                raise
            return True

        return await self._in_thread(ensure)

    async def aclose(self) -> None:
        """Close the connections that nobody uses."""
        self._http.clear()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(call)
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise _translated(exc) from exc


def _translated(exc: Exception) -> SetupError:
    """The client's error as one of ours. Pure."""
    if isinstance(exc, S3Error):
        status, told = exc.response.status, exc.code or "no code"
    elif isinstance(exc, ServerError):
        status, told = exc.status_code, f"status {exc.status_code}"
    elif isinstance(exc, InvalidResponseError):
        status, told = exc._code, f"status {exc._code}, no XML"  # noqa: SLF001 - no other way
    else:
        status, told = 503, type(exc).__name__
    if status in NOT_READY:
        return StoreAwayError(
            f"The object store does not answer at S3_URL ({told}). Start it, or correct the "
            "address."
        )
    if status == 403:
        return SetupError(
            f"The object store refuses S3_ACCESS_KEY with S3_SECRET_KEY ({told}). Correct them; "
            "they must be allowed to make buckets."
        )
    return SetupError(
        f"What answers at S3_URL does not do as an object store should ({told}). Correct the "
        "address."
    )
