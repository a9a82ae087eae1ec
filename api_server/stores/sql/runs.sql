-- name: assistant
select body, clock_timestamp() as at from assistants where id = $1 and app_id = $2

-- name: add
-- One statement for what is done most: the thread is locked, then the run, its job and the job's
-- place in the order come to be, as `add` and `line_up` of jobs.sql would make them; nothing comes
-- to be where the thread has an active run.
-- The commit waits for no disk: it holds a row that all of the app's runs want (`flush` waits).
with thread as materialized (
    select id, app_id, user_name from threads
    where id = $2 and app_id = $3 and ($4::text is null or user_name = $4)
    for no key update
), added as (
    insert into runs (
        id, thread_id, app_id, user_name, assistant_id, body, metadata, job_id, created_at,
        expires_at, last_event
    )
    select
        $1, id, app_id, user_name, $5, $6::json, $7::json, $8, $9::timestamptz, $10::timestamptz,
        cardinality($11::text[])
    from thread
    on conflict (thread_id)
        where status in ('queued', 'in_progress', 'requires_action', 'cancelling')
        do nothing
    returning id, app_id, user_name, job_id
), told as (
    insert into run_events (run_id, n, event, data)
    select added.id, w.n, w.event, w.data
    from added, unnest($11::text[], $12::text[]) with ordinality as w (event, data, n)
), job as (
    insert into jobs (
        id, app_id, user_name, request_type, chat, model, class, step, digest, expires_at, kind
    )
    select
        job_id, app_id, user_name, 'run', $13, $14, $15, $16, $17,
        now() + $18::double precision * interval '1 second', 'run'
    from added
    returning id, app_id, model, kind, class, step
), clock as materialized (
    select coalesce(pg_sequence_last_value('job_clock_run'::regclass), 0) as tag
), moved as (
    insert into job_flows as flow (app_id, class, last_tag)
    select job.app_id, job.kind || ' ' || job.class, clock.tag + job.step from job, clock
    on conflict (app_id, class) do update set last_tag = greatest(
        excluded.last_tag, flow.last_tag + excluded.last_tag - (select tag from clock)
    )
    returning app_id, last_tag
), placed as (
    insert into job_queue (job_id, tag, app_id, model, kind)
    select job.id, moved.last_tag, job.app_id, job.model, job.kind
    from job join moved using (app_id)
)
select
    user_name, exists (select from added) as is_added,
    set_config('synchronous_commit', 'off', true)
from thread

-- name: flush
-- A commit that does wait, and with it all that came before.
select pg_logical_emit_message(true, 'runs', '')

-- name: find
select * from runs
where id = $1 and thread_id = $2 and app_id = $3 and ($4::text is null or user_name = $4)

-- name: lock_job
-- Its place in the queue first, in the order of whoever claims it: else both wait for each other.
with place as materialized (
    select job_id from job_queue where job_id = $1 for update
)
select state from jobs where id = $1 and (select count(*) from place) >= 0 for update

-- name: lock
select *, clock_timestamp() as at from runs where id = $1
for no key update

-- name: list_place
select created_at, seq from runs
where app_id = $1 and thread_id = $2 and id = $3

-- name: list_page
select * from runs
where app_id = $1 and thread_id = $2
    and (created_at, seq) > ($3::timestamptz, $4::bigint)
    and (created_at, seq) < ($5::timestamptz, $6::bigint)
order by created_at /*desc*/, seq /*desc*/
limit $7

-- name: modify
update runs set metadata = $5::json
where id = $1 and thread_id = $2 and app_id = $3 and ($4::text is null or user_name = $4)
returning id

-- name: steps_place
select created_at, seq from run_steps where app_id = $1 and run_id = $2 and id = $3

-- name: steps_page
select * from run_steps
where app_id = $1 and run_id = $2
    and (created_at, seq) > ($3::timestamptz, $4::bigint)
    and (created_at, seq) < ($5::timestamptz, $6::bigint)
order by created_at /*desc*/, seq /*desc*/
limit $7

-- name: step
select * from run_steps where app_id = $1 and run_id = $2 and id = $3

-- name: all_steps
select * from run_steps where run_id = $1 order by created_at, seq

-- name: all_actions
select * from actions where run_id = $1 order by seq

-- name: half_messages
select id from messages where run_id = $1 and status in ('in_progress', 'incomplete')

-- name: conversation
-- The newest messages of the thread, the oldest of them first.
select id, role, run_id, content from (
    select id, role, run_id, content, created_at, seq from messages
    where thread_id = $1 and status <> 'in_progress'
        and (run_id is distinct from $2 or status = 'completed')
    order by created_at desc, seq desc
    limit $3
) as newest
order by created_at, seq

-- name: load
-- The conversation only for those that nobody has begun.
select
    runs.*, threads.tool_resources as thread_resources, clock_timestamp() as at,
    case when runs.leg = 1 and runs.started_at is null then (
        select json_agg(
            json_build_object('id', newest.id, 'role', newest.role, 'content', newest.content)
            order by newest.created_at, newest.seq
        )
        from (
            select id, role, content, created_at, seq from messages
            where thread_id = runs.thread_id and status <> 'in_progress'
            order by created_at desc, seq desc
            limit $2
        ) as newest
    ) end as heard
from runs join threads on threads.id = runs.thread_id
where runs.id = $1

-- name: events
select n, event, data from run_events where run_id = $1 and n > $2 order by n limit $3

-- name: position
select last_event, status, has_events from runs where id = $1

-- name: cancelling
select id from runs where id = any($1::text[]) and status = 'cancelling'

-- name: active_jobs
select job_id from runs
where thread_id = $1 and status in ('queued', 'in_progress', 'requires_action', 'cancelling')

-- name: hurry
-- A job that was put off, and that nobody holds, is taken up at once.
update jobs set lease_until = now()
where id = $1 and state = 'processing' and lease_owner is null
returning pg_notify('jobs', 'new')

-- name: end_job
-- In the order of `lock_job`.
with gone as (
    delete from job_queue where job_id = $1
    returning job_id
), ended as (
    update jobs set state = 'cancelled', chat = '', fence = fence + 1, finished_at = now(),
        lease_owner = null, lease_until = null, error_code = 'CANCELLED', message = $2,
        retry_possible = false
    where id = $1 and state in ('queued', 'processing') and (select count(*) from gone) >= 0
    returning id
)
select id, pg_notify('jobs', 'stop ' || id) from ended

-- name: continue
update runs set
    status = 'queued', leg = leg + 1, job_id = $2, required_action = null, last_error = null,
    can_resume = false, failed_at = null, ended_at = null, has_events = true,
    expires_at = case
        when $3::double precision is null then expires_at
        else now() + $3::double precision * interval '1 second'
    end
where id = $1
returning *, set_config('synchronous_commit', 'off', true)

-- name: write
-- What belongs to runs, all or nothing for each: only where its job is still held, or where the
-- caller has locked the run itself (no fence is given then).
with given as materialized (
    select * from json_to_recordset($1::json) as g (
        run_id text, job_id text, fence bigint, status text, required_action json, last_error json,
        can_resume boolean, incomplete_details json, prompt_tokens bigint,
        completion_tokens bigint, last_event bigint, started_at timestamptz,
        cancelled_at timestamptz, failed_at timestamptz, completed_at timestamptz,
        ended_at timestamptz
    )
), held as materialized (
    select runs.id, runs.thread_id, runs.app_id, runs.user_name, runs.assistant_id
    from given
    join jobs on jobs.id = given.job_id
    join runs on runs.id = given.run_id
    where given.fence is not null and jobs.fence = given.fence and jobs.state = 'processing'
        and runs.job_id = jobs.id and runs.status in ('queued', 'in_progress', 'cancelling')
        and not (runs.status = 'cancelling' and given.status = 'requires_action')
    order by jobs.id
    for share of jobs
    for no key update of runs
), locked as materialized (
    select runs.id, runs.thread_id, runs.app_id, runs.user_name, runs.assistant_id
    from given join runs on runs.id = given.run_id
    where given.fence is null
    for no key update of runs
), ours as materialized (
    select * from held union all select * from locked
), told_runs as (
    update runs set
        status = case
            when runs.status = 'cancelling' and given.status in ('queued', 'in_progress')
                then runs.status
            else given.status
        end,
        required_action = given.required_action, last_error = given.last_error,
        can_resume = given.can_resume, incomplete_details = given.incomplete_details,
        prompt_tokens = given.prompt_tokens, completion_tokens = given.completion_tokens,
        last_event = greatest(runs.last_event, given.last_event), started_at = given.started_at,
        cancelled_at = given.cancelled_at, failed_at = given.failed_at,
        completed_at = given.completed_at, ended_at = given.ended_at
    from given join ours on ours.id = given.run_id
    where runs.id = given.run_id
    returning runs.id, runs.status
), told_steps as (
    insert into run_steps (
        id, run_id, thread_id, app_id, assistant_id, created_at, type, status, details, last_error,
        usage, expired_at, cancelled_at, failed_at, completed_at
    )
    select
        s.id, ours.id, ours.thread_id, ours.app_id, ours.assistant_id, s.created_at, s.type,
        s.status, s.details, s.last_error, s.usage, s.expired_at, s.cancelled_at, s.failed_at,
        s.completed_at
    from json_to_recordset($2::json) as s (
        id text, run_id text, created_at timestamptz, type text, status text, details json,
        last_error json, usage json, expired_at timestamptz, cancelled_at timestamptz,
        failed_at timestamptz, completed_at timestamptz, place integer
    ) join ours on ours.id = s.run_id
    order by s.place
    on conflict (id) do update set
        status = excluded.status, details = excluded.details, last_error = excluded.last_error,
        usage = excluded.usage, expired_at = excluded.expired_at,
        cancelled_at = excluded.cancelled_at, failed_at = excluded.failed_at,
        completed_at = excluded.completed_at
), told_messages as (
    insert into messages (
        id, thread_id, app_id, created_at, status, role, content, assistant_id, run_id,
        attachments, incomplete_details, completed_at, incomplete_at
    )
    select
        m.id, ours.thread_id, ours.app_id, m.created_at, m.status, 'assistant', m.content,
        ours.assistant_id, ours.id, '[]'::json, m.incomplete_details, m.completed_at,
        m.incomplete_at
    from json_to_recordset($3::json) as m (
        id text, run_id text, created_at timestamptz, status text, content json,
        incomplete_details json, completed_at timestamptz, incomplete_at timestamptz, place integer
    ) join ours on ours.id = m.run_id
    order by m.place
    on conflict (id) do update set
        status = excluded.status, content = excluded.content,
        incomplete_details = excluded.incomplete_details, completed_at = excluded.completed_at,
        incomplete_at = excluded.incomplete_at
), gone_messages as (
    delete from messages
    using json_to_recordset($4::json) as g (id text, run_id text) join ours on ours.id = g.run_id
    where messages.id = g.id and messages.run_id = ours.id
), told_actions as (
    insert into actions (
        id, app_id, user_name, thread_id, run_id, step_id, tool_call_id, name, arguments, is_ours,
        status, output, created_at, ended_at
    )
    select
        a.id, ours.app_id, ours.user_name, ours.thread_id, ours.id, a.step_id, a.tool_call_id,
        a.name, a.arguments, a.is_ours, a.status, a.output, a.created_at, a.ended_at
    from json_to_recordset($5::json) as a (
        id text, run_id text, step_id text, tool_call_id text, name text, arguments text,
        is_ours boolean, status text, output text, created_at timestamptz, ended_at timestamptz,
        place integer
    ) join ours on ours.id = a.run_id
    order by a.place
    on conflict (id) do update set
        status = excluded.status, output = excluded.output, ended_at = excluded.ended_at
), told_events as (
    insert into run_events (run_id, n, event, data)
    select e.run_id, e.n, e.event, e.data
    from unnest($6::text[], $7::bigint[], $8::text[], $9::text[]) as e (run_id, n, event, data)
    join ours on ours.id = e.run_id
    on conflict do nothing
)
select
    told_runs.id, told_runs.status,
    case when told_runs.id = any($6::text[])
        then pg_notify('jobs', 'events ' || told_runs.id) is null
    end as is_told
from told_runs

-- name: still_ours
select runs.id, runs.status from unnest($1::text[], $2::text[], $3::bigint[]) as g (id, job_id, fence)
join jobs on jobs.id = g.job_id and jobs.fence = g.fence and jobs.state = 'processing'
join runs on runs.id = g.id and runs.job_id = jobs.id
    and runs.status in ('queued', 'in_progress', 'cancelling')

-- name: in_turn
select pg_try_advisory_xact_lock(7264127411) as is_ours

-- name: late
-- In any order, as those below: the same hundred that cannot be ended would keep all others.
select id as run_id, job_id, null as job_state, null as message from runs
where expires_at < now()
    and status in ('queued', 'in_progress', 'requires_action', 'cancelling')
order by random()
limit 100

-- name: abandoned
-- Those whose job has ended without them, whatever the reason.
select runs.id as run_id, runs.job_id, jobs.state as job_state, jobs.message from runs
left join jobs on jobs.id = runs.job_id
where runs.status in ('queued', 'in_progress', 'cancelling')
    and runs.expires_at >= now()
    and (jobs.id is null or jobs.state not in ('queued', 'processing'))
order by random()
limit 100

-- name: forget_events
with old as (
    select id from runs
    where has_events and ended_at < now() - $1::double precision * interval '1 second'
    limit 100
    for update skip locked
), gone as (
    delete from run_events using old where run_events.run_id = old.id
)
update runs set has_events = false from old where runs.id = old.id
