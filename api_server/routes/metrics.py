"""`GET /metrics` in Prometheus' text format: the sum over all workers, whichever one answers."""

from fastapi import APIRouter, Request, Response

from api_server.observability.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["health"])


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Every metric that docs/metrics.md lists."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.render(), headers={"content-type": CONTENT_TYPE})
