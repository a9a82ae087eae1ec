"""A gateway to which PostgreSQL, Redis or both were never told of."""

from pathlib import Path

import httpx
import pytest

from tests.access import ADMIN, CHAT
from tests.fake_engine import running_engine
from tests.integration.conftest import running_gateway


@pytest.mark.parametrize("has_redis", [True, False])
async def test_without_postgres_chat_and_cache_work_and_the_rest_says_why_not(
    tmp_path: Path, redis_url: str, has_redis: bool
) -> None:
    variables = {"AUTH": "off", "ENVIRONMENT": "development", "ADMIN_API_KEY": ADMIN}
    if has_redis:
        variables["REDIS_URL"] = redis_url
    admin = {"authorization": f"Bearer {ADMIN}"}
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, variables=variables) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        said = []
        for _ in range(2):
            answer = await http.post(
                "/v1/chat/completions", json=CHAT | {"seed": 1}, headers={"x-cache": "use"}
            )
            assert answer.status_code == 200, answer.text
            assert "x-degraded" not in answer.headers
            said.append(answer.headers["x-cache"])
        assert said == (["miss", "hit"] if has_redis else ["bypass", "bypass"])
        ready = await http.get("/health/ready")
        assert ready.status_code == 200, ready.text
        assert ready.json()["dependencies"] == ({"redis": "up"} if has_redis else {})
        job = {"app_code": "any", "request_type": "explain", "request": "What is a queue?"}
        refused = await http.post("/ai_request", json=job)
        assert (refused.status_code, refused.json()["error_code"]) == (503, "SERVICE_UNAVAILABLE")
        assert refused.headers["retry-after"]
        assert (await http.get("/admin/apps", headers=admin)).status_code == 503
        assert (await http.get("/admin/usage", headers=admin)).status_code == 404
