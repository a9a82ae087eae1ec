-- name: insert_thread
insert into threads (id, app_id, user_name, tool_resources, metadata, created_at)
values ($1, $2, $3, $4, $5, coalesce($6, now()))

-- name: insert_messages
-- The clock, not the transaction's beginning: who waited for the thread's row comes later.
insert into messages (
    id, thread_id, app_id, role, content, attachments, metadata, assistant_id, run_id, status,
    incomplete_details, created_at, completed_at, incomplete_at
)
select
    w.id, w.thread_id, w.app_id, w.role, w.content::json, w.attachments::json, w.metadata::json,
    w.assistant_id, w.run_id, w.status, w.incomplete_details::json,
    coalesce(w.created_at, clock_timestamp()), w.completed_at, w.incomplete_at
from unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[],
    $14::timestamptz[]
) with ordinality as w (
    id, thread_id, app_id, role, content, attachments, metadata, assistant_id, run_id, status,
    incomplete_details, created_at, completed_at, incomplete_at, place
)
order by w.place

-- name: find_thread
select id, app_id, user_name, created_at, tool_resources, metadata from threads
where app_id = $1 and id = $3 and ($2::text is null or user_name = $2)

-- name: lock_thread
-- Not `for update`: whoever only adds a row that refers to the thread need not wait.
select id, app_id, user_name, created_at, tool_resources, metadata from threads
where app_id = $1 and id = $3 and ($2::text is null or user_name = $2)
for no key update

-- name: active_run
select id from runs
where
    app_id = $1 and thread_id = $2
    and status in ('queued', 'in_progress', 'requires_action', 'cancelling')

-- name: change_thread
update threads set
    tool_resources = case when $3 then $4::json else tool_resources end,
    metadata = case when $5 then $6::json else metadata end
where app_id = $1 and id = $2
returning id, app_id, user_name, created_at, tool_resources, metadata

-- name: delete_thread
delete from threads where app_id = $1 and id = $2

-- name: find_message
select
    id, thread_id, created_at, status, role, content, assistant_id, run_id, attachments, metadata,
    incomplete_details, completed_at, incomplete_at
from messages where app_id = $1 and thread_id = $2 and id = $3

-- name: change_message
update messages set metadata = $4 where app_id = $1 and thread_id = $2 and id = $3
returning
    id, thread_id, created_at, status, role, content, assistant_id, run_id, attachments, metadata,
    incomplete_details, completed_at, incomplete_at

-- name: delete_message
delete from messages where app_id = $1 and thread_id = $2 and id = $3

-- name: messages_place
select created_at, seq from messages
where app_id = $1 and thread_id = $2 and ($3::text is null or run_id = $3) and id = $4

-- name: messages_page
select
    id, thread_id, created_at, status, role, content, assistant_id, run_id, attachments, metadata,
    incomplete_details, completed_at, incomplete_at
from messages
where
    app_id = $1 and thread_id = $2 and ($3::text is null or run_id = $3)
    and (created_at, seq) > ($4, $5) and (created_at, seq) < ($6, $7)
