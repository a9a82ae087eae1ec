"""`WS /ws/requests/{id}`: what `GET /get_request/{id}` says, whenever it changes, to the end."""

import asyncio

import msgspec
from fastapi import APIRouter, Response, WebSocket, WebSocketDisconnect

from api_server.errors import ApiError, JobNotFoundError, envelope_for
from api_server.routes.jobs import credentials_of, jobs_of
from api_server.services.jobs.service import JobService
from api_server.services.jobs.watching import Watcher, is_final

SEND_SECONDS = 10.0
"""A client that reads nothing for so long is cut off."""

NORMAL, AWAY = 1000, 1013

router = APIRouter()


@router.websocket("/ws/requests/{request_id}")
async def watch(socket: WebSocket, request_id: str) -> None:
    """Refused before the handshake with the status and the body that HTTP would have."""
    try:
        jobs = jobs_of(socket)
        service = jobs.service
        if request_id.startswith("batch_"):
            raise JobNotFoundError("Request ID not found")
        await service.find(request_id, credentials_of(socket))
        with jobs.room.watching.watch(request_id) as watcher:
            await socket.accept()
            await _until_either_ends(socket, service, watcher)
    except ApiError as exc:
        body = msgspec.json.encode(envelope_for(socket.url.path, exc))
        headers = dict(exc.headers)
        await socket.send_denial_response(
            Response(body, exc.status, headers, media_type="application/json")
        )
    except WebSocketDisconnect:
        return


async def _until_either_ends(socket: WebSocket, service: JobService, watcher: Watcher) -> None:
    telling = asyncio.create_task(_tell(socket, service, watcher))
    hearing = asyncio.create_task(_until_it_leaves(socket))
    tasks = {telling, hearing}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if telling.done() and not telling.cancelled() and telling.exception() is None:
        await socket.close(NORMAL if telling.result() else AWAY)


async def _tell(socket: WebSocket, service: JobService, watcher: Watcher) -> bool:
    """Each change, up to the result; False for a client that does not read."""
    while True:
        job = await watcher.next_change()
        if job is None:
            gone = envelope_for("/ws/requests", JobNotFoundError("Request ID not found"))
            await socket.send_text(msgspec.json.encode(gone).decode())
            return True
        text = msgspec.json.encode(service.answer(job)).decode()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await socket.send_text(text)
        except TimeoutError:
            return False
        if is_final(job):
            return True


async def _until_it_leaves(socket: WebSocket) -> None:
    """What it says is not heard; only that it goes."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        continue
