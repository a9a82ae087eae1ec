-- name: wanted
select
    taken.chunking::text as chunking, taken.attributes::text as attributes, taken.chunks,
    files.filename, files.content_type, files.bytes,
    (
        select coalesce(sum(other.chunks), 0)::bigint from vector_stores as store
        join vector_store_files as other on other.vector_store_id = store.id
        where store.app_id = $1 and store.expired_at is null
            and (other.vector_store_id, other.file_id) <> ($2, $3)
    ) as chunks_of_others
from vector_store_files as taken
join files on files.id = taken.file_id and files.app_id = taken.app_id
where taken.app_id = $1 and taken.vector_store_id = $2 and taken.file_id = $3
    and taken.generation = $4 and taken.status = 'in_progress'

-- name: reached
with held as (
    select id from jobs where id = $5 and fence = $6 and state = 'processing' for share
)
update vector_store_files as taken set chunks = $7
from held
where taken.app_id = $1 and taken.vector_store_id = $2 and taken.file_id = $3
    and taken.generation = $4 and taken.status = 'in_progress'
returning true as is_ours

-- name: complete
with held as (
    select id from jobs where id = $5 and fence = $6 and state = 'processing' for share
)
update vector_store_files as taken set
    status = 'completed', last_error = null, chunks = $7, usage_bytes = $8
from held
where taken.app_id = $1 and taken.vector_store_id = $2 and taken.file_id = $3
    and taken.generation = $4 and taken.status = 'in_progress' and taken.attributes::text = $9
returning true as is_ours

-- name: fail
with held as (
    select id from jobs where id = $5 and fence = $6 and state = 'processing' for share
), failed as (
    update vector_store_files as taken set
        status = 'failed', chunks = 0,
        last_error = json_build_object('code', $7::text, 'message', $8::text)
    from held
    where taken.app_id = $1 and taken.vector_store_id = $2 and taken.file_id = $3
        and taken.generation = $4 and taken.status = 'in_progress'
    returning taken.app_id, taken.vector_store_id, taken.file_id, taken.generation
), stale as (
    insert into stale_chunks (app_id, vector_store_id, file_id, generation)
    select app_id, vector_store_id, file_id, generation from failed
)
select true as is_ours from failed

-- name: give_up
insert into stale_chunks (app_id, vector_store_id, file_id, generation)
select $1, $2, $3, $4
where not exists (
    select from vector_store_files as taken
    where taken.vector_store_id = $2 and taken.file_id = $3 and taken.generation = $4
        and taken.status in ('in_progress', 'completed')
)

-- name: settle
with ended as (
    select
        taken.vector_store_id, taken.file_id, jobs.state,
        coalesce(jobs.message, 'The file could not be taken in.') as message
    from vector_store_files as taken left join jobs on jobs.id = taken.job_id
    where taken.status = 'in_progress'
        and (jobs.id is null or jobs.state not in ('queued', 'processing'))
    limit 100
    for update of taken skip locked
), settled as (
    update vector_store_files as taken set
        status = case ended.state when 'cancelled' then 'cancelled' else 'failed' end,
        last_error = case when ended.state = 'cancelled' then null
            else json_build_object('code', 'server_error', 'message', ended.message) end,
        chunks = 0
    from ended
    where taken.vector_store_id = ended.vector_store_id and taken.file_id = ended.file_id
    returning taken.app_id, taken.vector_store_id, taken.file_id, taken.generation
)
insert into stale_chunks (app_id, vector_store_id, file_id, generation)
select app_id, vector_store_id, file_id, generation from settled

-- name: others_wait
-- An app whose file is put off gets no place now: that one's lease lies ahead, without an owner.
select true as is_so from jobs as waiting
where waiting.kind = 'ingest' and waiting.app_id <> $1
    and (
        waiting.state = 'queued'
        or (waiting.state = 'processing' and waiting.lease_until < now())
    )
    and not exists (
        select from jobs as held
        where held.kind = 'ingest' and held.state = 'processing' and held.lease_until >= now()
            and held.app_id = waiting.app_id
    )
limit 1
