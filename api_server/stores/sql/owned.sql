-- name: missing_files
select w.id from unnest($2::text[]) as w (id)
where not exists (
    select from files
    where
        app_id = $1 and files.id = w.id and ($3::text is null or user_name = $3)
        and (expires_at is null or expires_at > now())
)

-- name: missing_vector_stores
select w.id from unnest($2::text[]) as w (id)
where not exists (
    select from vector_stores
    where app_id = $1 and vector_stores.id = w.id and ($3::text is null or user_name = $3)
)
