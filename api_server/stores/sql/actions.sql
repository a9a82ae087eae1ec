-- name: actions_place
select created_at, seq from actions
where app_id = $1 and ($2::text is null or user_name = $2)
    and ($3::text is null or status = $3) and ($4::text is null or thread_id = $4)
    and id = $5

-- name: actions_page
select * from actions
where app_id = $1 and ($2::text is null or user_name = $2)
    and ($3::text is null or status = $3) and ($4::text is null or thread_id = $4)
    and (created_at, seq) > ($5::timestamptz, $6::bigint)
    and (created_at, seq) < ($7::timestamptz, $8::bigint)
