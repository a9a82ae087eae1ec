"""*Tenants and jobs*: who uses how much, what waits, what is answered from the cache. Pure.

Usage by app is asked of PostgreSQL, where the ledger is: metrics have no labels of apps. What may
be read there is in `api_server/stores/readers.py`.
"""

from collections.abc import Iterator

from monitoring.expressions import FIRST_TOKEN, STREAMED_RUNS
from monitoring.panels import WINDOW, Board, Panel, Prom, Row, Sql, percentiles, quantile

MOST_APPS = 10
"""In one picture; the table has more."""


def board() -> Board:
    """It needs no targets."""
    return Board(
        uid="stack-tenants",
        title="LLM serving: tenants and jobs",
        description="Usage by app from the ledger in PostgreSQL; queue, jobs, runs, kept answers.",
        since="now-6h",
        rows=[
            Row(9, [_usage()]),
            Row(9, [_over_time("Requests by app", "count(*)", _REQUESTS, "short"), _output()]),
            Row(8, [_slowness(), _failures()]),
            Row(8, list(_queue())),
            Row(8, [_jobs_by_state(), _jobs_waiting()]),
            Row(8, list(_jobs())),
            Row(8, list(_runs())),
            Row(8, list(_answers())),
        ],
    )


_REQUESTS = "Requests in the ledger, by app: the ten that ask most in this time."
_TIMES = "generate_series(date_bin('$__interval', $__timeFrom()::timestamptz, 'epoch'),\n"
_TIMES += "    $__timeTo()::timestamptz, '$__interval')"


def _usage() -> Panel:
    return Panel(
        title="Usage by app",
        description=(
            "From the ledger, of the time above. Answers from the cache are no tokens. Failed are "
            "all without a whole answer, whoever's fault it was. Apps without requests come last."
        ),
        unit="short",
        queries=[
            Sql("""\
select apps.name as "App",
    count(usage.at) as "Requests",
    count(usage.at) filter (where usage.outcome <> 'ok') as "Failed",
    coalesce(sum(usage.prompt_tokens) filter (where usage.cache is distinct from 'hit'), 0)
        as "Input tokens",
    coalesce(sum(usage.cached_tokens) filter (where usage.cache is distinct from 'hit'), 0)
        as "of them in an engine's cache",
    coalesce(sum(usage.completion_tokens) filter (where usage.cache is distinct from 'hit'), 0)
        as "Output tokens",
    count(usage.at) filter (where usage.cache = 'hit') as "Kept answers",
    count(usage.at) filter (where usage.is_estimate) as "Estimated",
    max(usage.at) as "Last request"
from apps left join usage on usage.app_id = apps.id and $__timeFilter(usage.at)
group by apps.id, apps.name
order by 2 desc, 1
limit 100""")
        ],
        kind="table",
        width=24,
        columns={"Last request": "dateTimeFromNow"},
    )


def _over_time(title: str, value: str, description: str, unit: str) -> Panel:
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=[
            Sql(f"""\
with used as (
    select app_id, date_bin('$__interval', at, 'epoch') as slot, {value} as n
    from usage where $__timeFilter(at) group by 1, 2
), shown as (
    select apps.id, apps.name from apps left join used on used.app_id = apps.id
    group by apps.id, apps.name order by coalesce(sum(used.n), 0) desc, apps.name limit {MOST_APPS}
)
select slots.slot as "time", shown.name as metric, coalesce(used.n, 0) as value
from {_TIMES} as slots (slot)
cross join shown
left join used on used.app_id = shown.id and used.slot = slots.slot
order by 1, 2""")  # noqa: S608 - our own words
        ],
        draw="bars",
    )


def _output() -> Panel:
    return _over_time(
        "Output tokens by app",
        "coalesce(sum(completion_tokens) filter (where cache is distinct from 'hit'), 0)",
        "Tokens of answers, by app: the ten with most in this time. Kept answers do not count.",
        "short",
    )


def _slowness() -> Panel:
    return Panel(
        title="Where requests of an app waited",
        description=(
            "Half of an app's answers took no longer, and 95 of 100, from the request to the last "
            "byte; and 95 of 100 waits in the queue. From the ledger, of the time above."
        ),
        unit="ms",
        queries=[
            Sql("""\
select app as "App", model as "Model", count(*) as "Answers",
    percentile_cont(0.5) within group (order by total_ms) as "p50",
    percentile_cont(0.95) within group (order by total_ms) as "p95",
    percentile_cont(0.95) within group (order by first_token_ms) as "First token, p95",
    percentile_cont(0.95) within group (order by queue_ms) as "Queue, p95"
from usage
where $__timeFilter(at) and outcome = 'ok' and model is not null
group by 1, 2
order by 3 desc
limit 100""")
        ],
        kind="table",
        columns={"Answers": "short"},
        decimals=0,
        quiet="no answers in this time",
    )


def _failures() -> Panel:
    return Panel(
        title="Requests without a whole answer, by app",
        description=(
            "What kept them from it. 4xx is the app's doing (limits, wrong requests), 5xx is "
            "ours; client_left: nobody waited any more."
        ),
        unit="short",
        queries=[
            Sql("""\
select app as "App", outcome as "Outcome", status as "Status", error_code as "Error",
    count(*) as "Requests", max(at) as "Last"
from usage
where $__timeFilter(at) and outcome <> 'ok'
group by 1, 2, 3, 4
order by 5 desc
limit 100""")
        ],
        kind="table",
        columns={"Last": "dateTimeFromNow", "Status": "none"},
        quiet="none in this time",
    )


def _queue() -> Iterator[Panel]:
    yield Panel(
        title="The queue, by model",
        description="Requests that wait for a free slot of their model.",
        unit="short",
        queries=[
            Prom("{{model}}", 'sum by (model) (llm_gateway_in_flight{phase="queued"})'),
        ],
        width=8,
    )
    yield Panel(
        title="The oldest request in the queue",
        description="How long the request has been waiting that has waited longest; 0 if none is.",
        unit="s",
        queries=[Prom("{{model}}", "max by (model) (llm_gateway_oldest_queued_seconds)")],
        width=8,
    )
    yield Panel(
        title="Requests beyond a limit of their app",
        description=(
            "Refused as their app had used up what its policy allows, by the limit: requests, "
            "tokens, or concurrent ones."
        ),
        unit="reqps",
        queries=_each_and_all("limit", "llm_gateway_limited_total"),
        width=8,
    )


def _each_and_all(label: str, counter: str) -> list[Prom]:
    """As rates; of all there is a figure where nothing happened yet."""
    return [
        Prom(f"{{{{{label}}}}}", f"sum by ({label}) (rate({counter}[{WINDOW}]))"),
        Prom("all", f"sum(rate({counter}[{WINDOW}])) or vector(0)"),
    ]


def _jobs_by_state() -> Panel:
    return Panel(
        title="Jobs by state and age",
        description=(
            "All jobs that are kept, by what became of them; how long ago the oldest and the "
            "newest of them were sent. Ended ones go after a while (docs/jobs.md)."
        ),
        unit="short",
        queries=[
            Sql("""\
select states.state as "State", count(jobs.created_at) as "Jobs",
    extract(epoch from now() - min(jobs.created_at)) as "Oldest",
    extract(epoch from now() - max(jobs.created_at)) as "Newest",
    extract(epoch from avg(jobs.started_at - jobs.queued_at)) as "Mean wait",
    extract(epoch from avg(jobs.finished_at - jobs.started_at)) as "Mean run"
from unnest(array['queued', 'processing', 'completed', 'error', 'cancelled', 'expired'])
    with ordinality as states (state, place)
left join jobs on jobs.state = states.state
group by states.state, states.place
order by states.place""")
        ],
        kind="table",
        columns=dict.fromkeys(("Oldest", "Newest", "Mean wait", "Mean run"), "s"),
        decimals=1,
    )


def _jobs_waiting() -> Panel:
    return Panel(
        title="Jobs that are not done, by app",
        description="Whose jobs wait or run, in which class, and how long the oldest has waited.",
        unit="short",
        queries=[
            Sql("""\
select coalesce(apps.name, jobs.app_id) as "App", jobs.class as "Class", jobs.model as "Model",
    count(*) filter (where jobs.state = 'queued') as "Waiting",
    count(*) filter (where jobs.state = 'processing') as "Running",
    extract(epoch from now() - min(jobs.queued_at)) as "Oldest"
from jobs left join apps on apps.id = jobs.app_id
where jobs.state in ('queued', 'processing')
group by 1, 2, 3
order by 4 desc
limit 100""")
        ],
        kind="table",
        columns={"Oldest": "s"},
        quiet="no job waits or runs",
    )


def _jobs() -> Iterator[Panel]:
    yield Panel(
        title="Jobs that wait and run",
        description="Of all gateways together, over time.",
        unit="short",
        queries=[Prom("{{state}}", "max by (state) (llm_gateway_jobs)")],
        width=8,
        draw="stack",
        quiet="jobs are off",
    )
    yield Panel(
        title="The oldest job that waits",
        description="How long the job has been waiting that has waited longest; 0 if none is.",
        unit="s",
        queries=[Prom("oldest", "max(llm_gateway_oldest_job_seconds)")],
        width=8,
        quiet="jobs are off",
    )
    yield Panel(
        title="How long jobs take",
        description="Of 100 jobs that ended, 95 waited in the queue, and ran, no longer.",
        unit="s",
        queries=[Prom("{{kind}}, p95", quantile(95, "llm_gateway_job_seconds_bucket", "kind"))],
        width=8,
        quiet="no job ended in this time",
    )


def _runs() -> Iterator[Panel]:
    yield Panel(
        title="Runs of assistants that ended",
        description="By how they ended, as a rate; one that was begun again ends again.",
        unit="reqps",
        queries=[
            Prom("{{status}}", f"sum by (status) (rate(llm_gateway_run_seconds_count[{WINDOW}]))")
        ],
        width=8,
        draw="stack",
    )
    yield Panel(
        title="First text of streamed runs",
        description=(
            "From the request of who streams a run, or gives it outputs, to its first text, with "
            "the queue, searches and functions before that. No promise is counted over it."
        ),
        unit="s",
        queries=percentiles(f"{FIRST_TOKEN}_bucket{{{STREAMED_RUNS}}}"),
        width=8,
        quiet="no run was streamed in this time",
    )
    yield Panel(
        title="How long runs take",
        description="Of 100 runs that ended so, 95 took no longer, from their creation to their "
        "end, with all that they waited for.",
        unit="s",
        queries=[Prom("{{status}}, p95", quantile(95, "llm_gateway_run_seconds_bucket", "status"))],
        width=8,
        quiet="no run ended in this time",
    )


def _answers() -> Iterator[Panel]:
    yield Panel(
        title="Kept answers",
        description=(
            "Requests of apps that let answers be kept: hit is one given before, miss a new one, "
            "bypass one that may not be kept."
        ),
        unit="reqps",
        queries=_each_and_all("result", "llm_gateway_cache_total"),
        width=8,
    )
    yield Panel(
        title="Rows of usage on their way",
        description=(
            "On a gateway's disk and not in PostgreSQL yet: a few seconds' worth, more while it is "
            "away. They are not in the pictures above."
        ),
        unit="short",
        queries=[Prom("rows", "sum(llm_gateway_spool_rows)")],
        width=8,
        quiet="there is no ledger",
    )
    yield Panel(
        title="Rows written and lost",
        description="Rows of the ledger that PostgreSQL took, and those that will never be there.",
        unit="suffix: rows/s",
        queries=[
            Prom("written", f"sum(rate(llm_gateway_ledger_shipped_total[{WINDOW}])) or vector(0)"),
            Prom("lost", f"sum(rate(llm_gateway_ledger_lost_total[{WINDOW}])) or vector(0)"),
        ],
        width=8,
    )
