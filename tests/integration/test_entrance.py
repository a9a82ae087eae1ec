"""What an app may ask of models, and what its limits say, through a whole gateway."""

from pathlib import Path

from tests.access import guarded_gateway, has_status, make_app, until


async def test_an_app_learns_nothing_of_models_that_it_may_not_use(
    tmp_path: Path, postgres_url: str
) -> None:
    bound = await make_app(postgres_url, "bound", models=["other"])
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        await until(lambda: has_status(gateway, bound.key, 403), 3)
        for name in ("fake", "made-up"):
            answer = await gateway.chat(bound.key, model=name)
            assert answer.status_code == 403
            message = answer.json()["error"]["message"]
            assert "may use: other" in message
            assert ("fake" in message) == (name == "fake")


async def test_the_longest_answer_of_a_policy_bounds_what_is_asked_for(
    tmp_path: Path, postgres_url: str
) -> None:
    short = await make_app(postgres_url, "short", max_tokens=7)
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        await until(lambda: has_status(gateway, short.key, 200), 3)
        refused = await gateway.chat(short.key, max_tokens=8)
        assert refused.status_code == 403
        assert "answers of 7 tokens" in refused.json()["error"]["message"]
        assert (await gateway.chat(short.key, max_tokens=7)).status_code == 200


async def test_a_request_refused_before_an_engine_saw_it_counts_nowhere(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    few = await make_app(postgres_url, "few", rate_limits=["3/hour"])
    variables = {"REDIS_URL": redis_url}
    async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
        await until(lambda: has_status(gateway, few.key, 200), 3)
        for _ in range(5):
            assert (await gateway.chat(few.key, n=1000)).status_code == 400
        statuses = [(await gateway.chat(few.key)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        last = await gateway.chat(few.key)
        assert last.headers["x-ratelimit-remaining-requests"] == "0"
        assert int(last.headers["retry-after"]) > 3000
