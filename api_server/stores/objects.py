"""Contents of files, in a server that speaks S3, through the `minio` client.

That client is synchronous: each call runs in a thread, and time-outs of its sockets end it.
"""

import logging
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from api_server.errors import ObjectKeptError, ObjectMissingError, SetupError, StoreAwayError
from api_server.stores.dependency import Dependency
from api_server.stores.own_threads import OwnThreads

T = TypeVar("T")

REGION = "us-east-1"
"""Of our own servers. Said, so that the client does not ask for it before anything else."""

CONNECT_SECONDS = 2.0
READ_SECONDS = 3.0
"""With nothing sent back for so long, once a request is out, the server hangs."""

MOST_CONNECTIONS = 16
BUDGET_SECONDS = 2.0
PUT_SECONDS = 20.0
"""On a slow line; where nothing moves, the time-outs above end it sooner."""

LONGEST_PAUSE_SECONDS = 4.0
LEAST_PART_BYTES = 5 * 1024 * 1024
"""The client wants no smaller ones."""

NOT_READY = frozenset({500, 502, 503, 504})
MISSING = frozenset({"NoSuchKey", "NoSuchBucket"})
OF_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"})
"""Refusals that tell of us, not of an object."""

log = logging.getLogger(__name__)


class Objects:
    """Nothing connects before the first call.

    `ensure_bucket` raises `StoreAwayError` where the server does not answer or is not ready,
    `SetupError` where it refuses our keys or does not speak S3. All others stand behind
    `dependency` and raise `DependencyDownError` for both.
    """

    def __init__(self, url: str, access_key: str, secret_key: str) -> None:
        self.dependency = Dependency(
            "objects", (SetupError,), longest_pause_seconds=LONGEST_PAUSE_SECONDS
        )
        self._threads = OwnThreads("objects", MOST_CONNECTIONS)
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

    async def put(self, bucket: str, name: str, content: bytes) -> None:
        """Write one object, whole or not at all. A bucket that is missing is made.

        After a `DependencyDownError` it may be there all the same, or come to be.
        """

        def put() -> None:
            # In one part: of a multipart upload that ends in the middle nobody here would know.
            size = max(len(content), LEAST_PART_BYTES)
            self._client.put_object(bucket, name, BytesIO(content), len(content), part_size=size)

        async def work() -> None:
            try:
                await self._in_thread(put)
            except ObjectMissingError:
                await self.ensure_bucket(bucket)
                await self._in_thread(put)

        await self._guarded(work, PUT_SECONDS)

    async def get(self, bucket: str, name: str, offset: int, length: int) -> bytes:
        """Exactly these bytes of an object. Raises `ObjectMissingError` where there is none."""

        def get() -> bytes:
            response = self._client.get_object(bucket, name, offset=offset, length=length)
            try:
                content: bytes = response.read()
            finally:
                response.close()
                response.release_conn()
            if len(content) != length:
                raise OSError(f"{len(content)} bytes of {length}")
            return content

        async def work() -> bytes:
            return await self._in_thread(get)

        return await self._guarded(work, BUDGET_SECONDS)

    async def remove(self, bucket: str, name: str) -> None:
        """Remove an object; one that is not there is removed.

        Raises `ObjectKeptError` where only this one is refused, as one under a lock is.
        """

        def remove() -> None:
            try:
                self._client.remove_object(bucket, name)
            except S3Error as exc:
                if _is_kept(exc):
                    raise ObjectKeptError(f"{exc.code}: {exc.message}") from exc
                raise

        async def work() -> None:
            try:
                await self._in_thread(remove)
            except ObjectMissingError:
                return

        await self._guarded(work, BUDGET_SECONDS)

    async def probe(self, bucket: str) -> None:
        """Ask for nothing, to find out whether it is there again."""

        async def work() -> None:
            await self._in_thread(lambda: self._client.bucket_exists(bucket))

        await self._guarded(work, BUDGET_SECONDS)

    async def aclose(self) -> None:
        """Close the connections that nobody uses."""
        await self.dependency.aclose()
        self._http.clear()

    async def _guarded(self, work: Callable[[], Awaitable[T]], budget_seconds: float) -> T:
        async def told() -> T:
            try:
                return await work()
            except StoreAwayError:
                raise
            except SetupError as exc:  # as good as away; only its operator can change that
                log.warning("the object store cannot be used", extra={"reason": str(exc)})
                raise

        return await self.dependency.call(told, budget_seconds=budget_seconds)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await self._threads.run(call)
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as exc:
            if _is_missing(exc):
                raise ObjectMissingError from exc
            raise _translated(exc) from exc


def _is_missing(exc: Exception) -> bool:
    """Whether a server that speaks S3 says that it has no such thing. Pure."""
    if isinstance(exc, S3Error):
        return exc.code in MISSING
    if isinstance(exc, InvalidResponseError):  # rclone's XML has a type that the client refuses
        body = exc._body or ""  # noqa: SLF001 - no other way
        return any(f"<Code>{code}</Code>" in body for code in MISSING)
    return False


def _is_kept(exc: S3Error) -> bool:
    """Whether what was refused would be done with another object. Pure."""
    is_refusal = 400 <= exc.response.status < 500
    return is_refusal and exc.code not in MISSING | OF_KEYS


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
