-- name: count
select count(*) from vector_store_files where vector_store_id = $1

-- name: add
with wanted as (
    select * from unnest(
        $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]
    ) with ordinality as w (file_id, chunking, attributes, job_id, generation, place)
), replaced as (
    select old.app_id, old.vector_store_id, old.file_id, old.generation
    from vector_store_files as old join wanted using (file_id)
    where old.app_id = $1 and old.vector_store_id = $2
), stale as (
    insert into stale_chunks (app_id, vector_store_id, file_id, generation) select * from replaced
)
insert into vector_store_files (
    vector_store_id, file_id, app_id, chunking, attributes, batch_id, job_id, generation
)
select
    $2, wanted.file_id, $1, wanted.chunking::json, wanted.attributes::json, $8, wanted.job_id,
    wanted.generation
from wanted
order by wanted.place
on conflict (vector_store_id, file_id) do update set
    created_at = now(), status = 'in_progress', last_error = null, usage_bytes = 0, chunks = 0,
    chunking = excluded.chunking, attributes = excluded.attributes, batch_id = excluded.batch_id,
    job_id = excluded.job_id, generation = excluded.generation

-- name: there
select file_id from vector_store_files
where app_id = $1 and vector_store_id = $2 and file_id = any($3::text[])

-- name: find
select
    file_id, created_at, status, last_error::text as last_error, chunking::text as chunking,
    attributes::text as attributes, usage_bytes, generation, job_id
from vector_store_files where app_id = $1 and vector_store_id = $2 and file_id = $3

-- name: remove
delete from vector_store_files where app_id = $1 and vector_store_id = $2 and file_id = $3
returning job_id

-- name: set_attributes
update vector_store_files set attributes = $4::text::json
where app_id = $1 and vector_store_id = $2 and file_id = $3
returning file_id

-- name: files_place
select created_at, seq from vector_store_files
where app_id = $1 and vector_store_id = $2 and ($3::text is null or $3::text is not null)
    and ($4::text is null or batch_id = $4) and file_id = $5

-- name: files_page
select
    file_id, created_at, status, last_error::text as last_error, chunking::text as chunking,
    attributes::text as attributes, usage_bytes, generation, job_id
from vector_store_files
where app_id = $1 and vector_store_id = $2 and ($3::text is null or status = $3)
    and ($4::text is null or batch_id = $4)
    and (created_at, seq) > ($5, $6) and (created_at, seq) < ($7, $8)

-- name: current
select
    taken.vector_store_id, taken.file_id, taken.generation,
    taken.attributes::text as attributes
from vector_store_files as taken
join unnest($2::text[], $3::text[], $4::text[]) as w (vector_store_id, file_id, generation)
    using (vector_store_id, file_id, generation)
where taken.app_id = $1 and taken.status = 'completed'

-- name: insert_batch
insert into vector_store_batches (id, vector_store_id, app_id) values ($1, $2, $3)

-- name: find_batch
select
    batch.id, batch.created_at, batch.cancelled_at is not null as is_cancelled,
    count(*) filter (where taken.status = 'in_progress') as in_progress,
    count(*) filter (where taken.status = 'completed') as completed,
    count(*) filter (where taken.status = 'failed') as failed,
    count(*) filter (where taken.status = 'cancelled') as cancelled
from vector_store_batches as batch
left join vector_store_files as taken
    on taken.batch_id = batch.id and taken.vector_store_id = batch.vector_store_id
where batch.app_id = $1 and batch.vector_store_id = $2 and batch.id = $3
group by batch.id

-- name: cancel_batch
update vector_store_batches set cancelled_at = coalesce(cancelled_at, now())
where app_id = $1 and vector_store_id = $2 and id = $3
returning id

-- name: cancel_files
with cancelled as (
    update vector_store_files set status = 'cancelled'
    where app_id = $1 and vector_store_id = $2 and batch_id = $3 and status = 'in_progress'
    returning app_id, vector_store_id, file_id, generation, job_id
), stale as (
    insert into stale_chunks (app_id, vector_store_id, file_id, generation)
    select app_id, vector_store_id, file_id, generation from cancelled
)
select job_id from cancelled
