-- name: make_partitions
select make_usage_partition(day) from unnest($1::date[]) as day

-- name: insert
insert into usage (
    at, id, app_id, app, end_user, route, model, fallback_for, replica, request_id, status, outcome,
    error_code, finish_reason, is_stream, cache, retries, prompt_tokens, cached_tokens,
    completion_tokens, is_estimate, queue_ms, engine_ms, first_token_ms, own_ms, total_ms
)
select
    timestamptz 'epoch' + at * interval '1 microsecond', id, app_id, app, end_user, route, model,
    fallback_for, replica, request_id, coalesce(status, 0), coalesce(outcome, ''), error_code,
    finish_reason, is_stream, cache, coalesce(retries, 0), prompt_tokens, cached_tokens,
    completion_tokens, coalesce(is_estimate, false), queue_ms, engine_ms, first_token_ms, own_ms,
    total_ms
from json_to_recordset($1::json) as line (
    at bigint, id uuid, app_id text, app text, end_user text, route text, model text,
    fallback_for text, replica text, request_id text, status integer, outcome text,
    error_code text, finish_reason text, is_stream boolean, cache text, retries integer,
    prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint, is_estimate boolean,
    queue_ms double precision, engine_ms double precision, first_token_ms double precision,
    own_ms double precision, total_ms double precision
)
on conflict (at, id) do nothing

-- name: insert_content
insert into usage_content (at, id, app_id, request, answer, is_cut)
select timestamptz 'epoch' + at * interval '1 microsecond', id, app_id, request, answer, is_cut
from json_to_recordset($1::json) as line (
    at bigint, id uuid, app_id text, request text, answer text, is_cut boolean
)
on conflict (at, id) do nothing

-- name: drop_before
select drop_usage_before($1::timestamptz)

-- name: report
select
    case when 'day' = any($1::text[]) then (at at time zone 'UTC')::date end as day,
    case when 'app' = any($1::text[]) then app end as app,
    case when 'model' = any($1::text[]) then model end as model,
    count(*) as requests,
    count(*) filter (where outcome <> 'ok') as failed,
    count(*) filter (where cache = 'hit') as cache_hits,
    coalesce(sum(prompt_tokens) filter (where cache is distinct from 'hit'), 0)::bigint
        as prompt_tokens,
    coalesce(sum(cached_tokens) filter (where cache is distinct from 'hit'), 0)::bigint
        as cached_tokens,
    coalesce(sum(completion_tokens) filter (where cache is distinct from 'hit'), 0)::bigint
        as completion_tokens,
    coalesce(sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0))
        filter (where is_estimate), 0)::bigint as estimated_tokens
from usage
where at >= $2::timestamptz and at < $3::timestamptz
    and ($4::text is null or app = $4 or app_id = $4)
    and ($5::text is null or model = $5)
group by 1, 2, 3
order by 1, 2, 3
limit $6
