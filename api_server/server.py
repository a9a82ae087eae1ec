"""Runs the gateway under uvicorn: drains on the first signal, hurries on the second."""

from types import FrameType

import uvicorn

from api_server.main import Gateway, create_app
from api_server.settings import Settings


class _Server(uvicorn.Server):
    """Uvicorn, with a drain that tells readiness and a second TERM that counts."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        """First signal: finish what runs. Second: running answers end with an error event."""
        self._gateway.health.is_draining = True
        if self.should_exit:
            for task in self.server_state.tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Serve until a signal; returns when everything is closed. Exits with 3 if it cannot listen."""
    gateway = create_app(settings)
    config = uvicorn.Config(
        gateway,
        host=settings.environment.host,
        port=settings.environment.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.stack.gateway.drain_seconds),
        timeout_keep_alive=75,
    )
    _Server(config, gateway).run()
