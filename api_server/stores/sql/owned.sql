-- name: missing_files
-- Those that are there stay so until the transaction ends.
with held as materialized (
    select id from files
    where
        app_id = $1 and id = any($2::text[]) and ($3::text is null or user_name = $3)
        and (expires_at is null or expires_at > now())
    order by id
    for key share
)
select w.id from unnest($2::text[]) as w (id)
where not exists (select from held where held.id = w.id)

-- name: missing_vector_stores
select w.id from unnest($2::text[]) as w (id)
where not exists (
    select from vector_stores
    where app_id = $1 and vector_stores.id = w.id and ($3::text is null or user_name = $3)
)
