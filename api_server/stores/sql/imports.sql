-- name: add_assistant
insert into assistants (id, app_id, created_at, body)
values ($1, $2, coalesce($3, now()), $4)
on conflict (id) do nothing
returning id

-- name: has_assistant
select exists (select from assistants where app_id = $1 and id = $2)

-- name: add_thread
insert into threads (id, app_id, user_name, created_at, tool_resources, metadata)
values ($1, $2, $3, coalesce($4, now()), $5, $6)
on conflict (id) do nothing
returning id

-- name: add_messages
insert into messages (
    id, thread_id, app_id, role, content, attachments, metadata, assistant_id, run_id, status,
    incomplete_details, created_at, completed_at, incomplete_at
)
select
    w.id, $2, $1, w.role, w.content::json, w.attachments::json, w.metadata::json, w.assistant_id,
    w.run_id, w.status, w.incomplete_details::json, coalesce(w.created_at, clock_timestamp()),
    w.completed_at, w.incomplete_at
from unnest(
    $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[]
) with ordinality as w (
    id, role, content, attachments, metadata, assistant_id, run_id, status, incomplete_details,
    created_at, completed_at, incomplete_at, place
)
order by w.place
on conflict (id) do nothing
returning id

-- name: has_messages
select id from messages where app_id = $1 and thread_id = $2 and id = any($3::text[])
