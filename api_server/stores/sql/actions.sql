-- name: actions_place
select created_at, seq from actions
where app_id = $1 and ($2::text is null or user_name = $2)
    and ($3::text is null or status = $3) and ($4::text is null or thread_id = $4)
    and id = $5

-- name: actions_page
select
    id, thread_id, run_id, step_id, tool_call_id, name, arguments, is_ours, status, output,
    created_at, ended_at
from actions
where app_id = $1 and ($2::text is null or user_name = $2)
    and ($3::text is null or status = $3) and ($4::text is null or thread_id = $4)
    and (created_at, seq) > ($5::timestamptz, $6::bigint)
    and (created_at, seq) < ($7::timestamptz, $8::bigint)
order by created_at /*desc*/, seq /*desc*/
limit $9
