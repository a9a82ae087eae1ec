-- name: queued
select coalesce(sum(n), 0)::bigint as queued from job_counts where kind = $1 and level = 36

-- name: queued_of_apps
select app_id, count(*) as queued from job_queue
where kind = $2 and app_id = any($1::text[])
group by app_id

-- name: add
insert into jobs (
    id, app_id, user_name, request_type, chat, model, class, step, idempotency_key, digest,
    batch_id, item, expires_at, kind
)
select
    w.id, w.app_id, w.user_name, w.request_type, w.chat, w.model, w.class, w.step, w.idempotency_key,
    w.digest, w.batch_id, w.item, now() + $13::double precision * interval '1 second', $14
from unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::text[], $10::bytea[], $11::text[], $12::integer[]
) with ordinality as w (
    id, app_id, user_name, request_type, chat, model, class, step, idempotency_key, digest,
    batch_id, item, place
)
order by w.place
on conflict (app_id, idempotency_key) where idempotency_key is not null do nothing
returning id

-- name: take_back
delete from jobs where id = any($1::text[])

-- name: line_up
with clock as materialized (
    select coalesce(pg_sequence_last_value($2::text::regclass), 0) as tag
), wanted as (
    select
        jobs.id, jobs.app_id, jobs.kind, jobs.model, w.place, flow.name as flow,
        sum(jobs.step) over (partition by jobs.app_id, flow.name order by w.place) as reached,
        sum(jobs.step) over (partition by jobs.app_id, flow.name) as total
    from unnest($1::text[]) with ordinality as w (id, place)
    join jobs on jobs.id = w.id,
    lateral (
        select case jobs.kind when 'chat' then jobs.class else jobs.kind || ' ' || jobs.class end as name
    ) as flow
), moved as (
    insert into job_flows as flow (app_id, class, last_tag)
    select distinct wanted.app_id, wanted.flow, clock.tag + wanted.total
    from wanted, clock
    order by 1, 2
    on conflict (app_id, class) do update set last_tag = greatest(
        excluded.last_tag, flow.last_tag + excluded.last_tag - (select tag from clock)
    )
    returning app_id, class as flow, last_tag
)
insert into job_queue (job_id, tag, app_id, model, kind)
select
    wanted.id, moved.last_tag - wanted.total + wanted.reached, wanted.app_id, wanted.model,
    wanted.kind
from wanted join moved using (app_id, flow)
order by wanted.place

-- name: known_keys
select w.place, jobs.id, jobs.digest, jobs.batch_id
from unnest($1::text[], $2::text[]) with ordinality as w (app_id, idempotency_key, place)
join jobs on jobs.app_id = w.app_id and jobs.idempotency_key = w.idempotency_key

-- name: claim
-- First those whose lease is over, then the first in the queue.
with due as materialized (
    select id from jobs
    where kind = $8 and state = 'processing' and lease_until < now() and attempts < $7
        and expires_at > now() and model <> all($3::text[]) and app_id <> all($4::text[])
    order by lease_until
    limit $2
    for update skip locked
), again as (
    update jobs set
        attempts = attempts + 1, fence = fence + 1, lease_owner = $1,
        lease_until = now() + $5::double precision * interval '1 second'
    from due where jobs.id = due.id
    returning jobs.*
), next as (
    select job_id from job_queue
    where kind = $8 and model <> all($3::text[]) and app_id <> all($4::text[])
    order by tag, seq
    limit $2 - (select count(*) from due)
    for update skip locked
), gone as (
    delete from job_queue using next where job_queue.job_id = next.job_id
    returning job_queue.job_id, job_queue.tag, job_queue.seq
), clock as (
    select setval(
        $9::text::regclass,
        greatest(max(gone.tag), coalesce(pg_sequence_last_value($9::text::regclass), 0))
    )
    from gone having count(*) > 0
), begun as (
    update jobs set
        state = 'processing', attempts = attempts + 1, fence = fence + 1, lease_owner = $1,
        lease_until = now() + $5::double precision * interval '1 second',
        started_at = now(), expires_at = now() + $6::double precision * interval '1 second'
    from gone where jobs.id = gone.job_id
    returning jobs.*, gone.tag, gone.seq
), taken as (
    select again.*, null::bigint as tag, null::bigint as seq from again
    union all select begun.* from begun
)
select
    taken.id, taken.app_id, taken.user_name, taken.request_type, taken.chat, taken.model,
    taken.class as priority, taken.attempts, taken.fence,
    extract(epoch from taken.expires_at - now())::double precision as seconds_left,
    extract(epoch from now() - taken.queued_at)::double precision as waited_seconds,
    apps.name as app_name, apps.policy::text as policy, apps.revoked_at is not null as is_revoked
from taken left join clock on true left join apps on apps.id = taken.app_id
order by taken.tag nulls first, taken.seq

-- name: put_off
update jobs set
    lease_owner = null, attempts = attempts - 1, fence = fence + 1,
    lease_until = now() + $3::double precision * interval '1 second'
where id = $1 and fence = $2 and state = 'processing'

-- name: renew
with held as (
    select jobs.id from unnest($1::text[], $2::bigint[]) as w (id, fence)
    join jobs on jobs.id = w.id and jobs.fence = w.fence
    where jobs.state = 'processing'
    order by jobs.id
    for update of jobs skip locked
)
update jobs set lease_until = now() + $3::double precision * interval '1 second'
from held where jobs.id = held.id

-- name: still_held
select w.id, w.fence from unnest($1::text[], $2::bigint[]) as w (id, fence)
join jobs on jobs.id = w.id and jobs.fence = w.fence and jobs.state = 'processing'

-- name: finish
with ended as (
    select * from unnest(
        $1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::text[]
    ) as e (id, fence, state, error_code, message, retry_possible, response)
), done as (
    update jobs set
        state = ended.state, chat = case ended.state when 'completed' then '' else jobs.chat end,
        error_code = ended.error_code, message = ended.message,
        retry_possible = ended.retry_possible, response = ended.response::json,
        finished_at = now(), lease_owner = null, lease_until = null
    from ended
    where jobs.id = ended.id and jobs.fence = ended.fence and jobs.state = 'processing'
    returning jobs.id
)
select done.id, pg_notify('jobs', 'done') from done

-- name: finished_as
select w.id from unnest($1::text[], $2::bigint[]) as w (id, fence)
join jobs on jobs.id = w.id and jobs.fence = w.fence
where jobs.state in ('completed', 'error')

-- name: cancel_waiting
with gone as (
    delete from job_queue where job_id = any($1::text[]) returning job_id
)
update jobs set state = 'cancelled', chat = '', finished_at = now(), error_code = 'CANCELLED',
    message = 'The request was cancelled', retry_possible = false
from gone where jobs.id = gone.job_id
returning jobs.id

-- name: cancel_running
with stopped as (
    update jobs set state = 'cancelled', chat = '', fence = fence + 1, finished_at = now(),
        lease_owner = null, lease_until = null, error_code = 'CANCELLED',
        message = 'The request was cancelled', retry_possible = false
    where id = any($1::text[]) and state = 'processing'
    returning id
)
select id, pg_notify('jobs', 'stop ' || id) from stopped

-- name: restart
update jobs set state = 'queued', attempts = 0, fence = fence + 1, error_code = null,
    message = null, retry_possible = null, started_at = null, finished_at = null,
    queued_at = now(), expires_at = now() + $2::double precision * interval '1 second'
where id = any($1::text[]) and state in ('error', 'expired') and retry_possible
returning id

-- name: expire_waiting
with late as (
    select job_queue.job_id from job_queue
    join jobs on jobs.id = job_queue.job_id
    where jobs.state = 'queued' and jobs.expires_at < now()
    limit 1000
    for update of job_queue skip locked
), gone as (
    delete from job_queue using late where job_queue.job_id = late.job_id
    returning job_queue.job_id
)
update jobs set state = 'expired', finished_at = now(), error_code = 'TIMEOUT',
    message = 'The request waited in the queue for longer than it may and was removed',
    retry_possible = true
from gone where jobs.id = gone.job_id
returning jobs.id

-- name: expire_running
with late as (
    select id from jobs
    where state = 'processing' and (
        expires_at < now() or (lease_until < now() and attempts >= $1)
    )
    limit 1000
    for update skip locked
), ended as (
    update jobs set
        state = 'error', finished_at = now(), fence = fence + 1, lease_owner = null,
        lease_until = null, retry_possible = true,
        error_code = case when expires_at < now() then 'TIMEOUT' else 'AI_SERVICE_ERROR' end,
        message = case
            when expires_at < now() then 'The request took longer than it may'
            else 'The request was begun several times and never came to its end'
        end
    from late where jobs.id = late.id
    returning jobs.id
)
select id, pg_notify('jobs', 'stop ' || id) from ended

-- name: forget_old
delete from jobs where id in (
    select id from jobs
    where finished_at < now() - $1::double precision * interval '1 second'
    limit 1000
    for update skip locked
)
returning id

-- name: add_up
with several as (
    select kind, level, bucket from job_counts
    group by kind, level, bucket having count(*) > 1 or sum(n) = 0
), gone as (
    delete from job_counts using several
    where job_counts.kind = several.kind and job_counts.level = several.level
        and job_counts.bucket = several.bucket
    returning job_counts.kind, job_counts.level, job_counts.bucket, job_counts.n
)
insert into job_counts (kind, level, bucket, n)
select kind, level, bucket, sum(n) from gone group by kind, level, bucket having sum(n) <> 0

-- name: in_turn
select pg_try_advisory_xact_lock(7264127409) as is_ours

-- name: status
select
    jobs.id, jobs.app_id, jobs.user_name, jobs.state, jobs.request_type, jobs.model,
    jobs.batch_id, jobs.item, jobs.error_code, jobs.message, jobs.retry_possible,
    jobs.response::text as response, jobs.created_at, jobs.finished_at,
    case when job_queue.job_id is not null then (
        1
        + coalesce((
            select sum(n) from job_counts
            where kind = 'chat' and level = 36 and bucket < job_queue.tag >> 36
        ), 0)
        + coalesce((
            select sum(n) from job_counts
            where kind = 'chat' and level = 28 and bucket >= (job_queue.tag >> 36) << 8
                and bucket < job_queue.tag >> 28
        ), 0)
        + coalesce((
            select sum(n) from job_counts
            where kind = 'chat' and level = 20 and bucket >= (job_queue.tag >> 28) << 8
                and bucket < job_queue.tag >> 20
        ), 0)
        + (
            select count(*) from job_queue as before
            where before.kind = 'chat' and before.tag >= (job_queue.tag >> 20) << 20
                and (before.tag, before.seq) < (job_queue.tag, job_queue.seq)
        )
    )::bigint end as position
from jobs left join job_queue on job_queue.job_id = jobs.id
where jobs.kind = 'chat' and jobs.id = any($1::text[])

-- name: of_batch
select id from jobs where batch_id = $1 order by item

-- name: history
select
    id, state, request_type, model, batch_id, item, error_code, message, retry_possible, created_at,
    finished_at
from jobs
where kind = 'chat' and app_id = $1 and ($2::text is null or user_name = $2)
    and ($3::text is null or state = $3)
    and ($4::text is null or request_type = $4)
    and ($5::text is null or batch_id = $5)
    and ($6::timestamptz is null or (created_at, id) < ($6, $7::text))
order by created_at desc, id desc
limit $8

-- name: counts
select
    (select coalesce(sum(n), 0)::bigint from job_counts where kind = $1 and level = 36) as queued,
    (select count(*) from jobs where kind = $1 and state = 'processing') as processing,
    coalesce(sum(slots), 0)::bigint as slots,
    coalesce(sum(busy), 0)::bigint as busy,
    sum(mean_seconds * slots) / nullif(sum(slots) filter (where mean_seconds is not null), 0)
        as mean_seconds,
    -- Who came first expires first, and those have an index.
    (
        select extract(epoch from now() - queued_at)::double precision from jobs
        where kind = $1 and state = 'queued' order by expires_at limit 1
    ) as oldest_seconds
from job_workers where kind = $1 and seen_at > now() - interval '10 seconds'

-- name: beat
insert into job_workers (id, slots, busy, mean_seconds, kind) values ($1, $2, $3, $4, $5)
on conflict (id) do update set
    slots = excluded.slots, busy = excluded.busy, mean_seconds = excluded.mean_seconds,
    seen_at = now()

-- name: leave
delete from job_workers where id = $1 or seen_at < now() - interval '1 hour'
