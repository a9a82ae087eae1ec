-- name: insert
insert into vector_stores (id, app_id, user_name, name, description, metadata, expires_after_days)
values ($1, $2, $3, $4, $5, $6::text::json, $7)

-- name: find
select * from vector_stores_told where app_id = $1 and id = $2

-- name: change
update vector_stores set
    name = case when $3 then $4 else name end,
    expires_after_days = case when $5 then $6 else expires_after_days end,
    metadata = case when $7 then $8::text::json else metadata end
where app_id = $1 and id = $2
returning id

-- name: delete
delete from vector_stores where app_id = $1 and id = $2 returning id

-- name: stores_place
select created_at, seq from vector_stores where app_id = $1 and id = $2

-- name: stores_page
select * from vector_stores_told
where app_id = $1 and (created_at, seq) > ($2, $3) and (created_at, seq) < ($4, $5)

-- name: hold
select
    expired_at is not null
    or coalesce(last_active_at + expires_after_days * interval '1 day' < now(), false) as is_expired
from vector_stores
where app_id = $1 and id = $3 and ($2::text is null or user_name = $2)
for no key update

-- name: states
select
    id,
    expired_at is not null
    or coalesce(last_active_at + expires_after_days * interval '1 day' < now(), false) as is_expired
from vector_stores where app_id = $1 and id = any($2::text[])

-- name: touch
update vector_stores set last_active_at = now()
where app_id = $1 and id = any($2::text[]) and expired_at is null
    and last_active_at < now() - interval '30 seconds'
    and coalesce(last_active_at + expires_after_days * interval '1 day' > now(), true)

-- name: expire
with late as (
    update vector_stores set expired_at = now()
    where expired_at is null and expires_after_days is not null
        and last_active_at + expires_after_days * interval '1 day' < now()
    returning id, app_id
), cancelled as (
    update vector_store_files as taken set status = 'cancelled' from late
    where taken.vector_store_id = late.id and taken.status = 'in_progress'
    returning taken.job_id
), stale as (
    insert into stale_chunks (app_id, vector_store_id) select app_id, id from late
)
select job_id from cancelled

-- name: stale
update stale_chunks set since = now() + interval '60 seconds'
where id in (
    select id from stale_chunks where since <= now() order by since limit $1
    for update skip locked
)
returning id, app_id, vector_store_id, file_id, generation

-- name: removed
with once as (
    update stale_chunks set
        was_removed = true, since = now() + $2::double precision * interval '1 second'
    where id = any($1::bigint[]) and not was_removed
)
delete from stale_chunks where id = any($1::bigint[]) and was_removed
