-- name: add
insert into uploads (
    id, app_id, user_name, filename, purpose, content_type, bytes, expires_at,
    file_expires_after_seconds
) values ($1, $2, $3, $4, $5, $6, $7, now() + $8::double precision * interval '1 second', $9)
returning *

-- name: find
select *, expires_at <= now() as is_late from uploads
where app_id = $1 and id = $3 and ($2::text is null or user_name = $2)

-- name: lock
select *, expires_at <= now() as is_late from uploads where app_id = $1 and id = $2 for update

-- name: parts
select * from upload_parts where upload_id = $1

-- name: part_bytes
select coalesce(sum(bytes), 0)::bigint as bytes from upload_parts where upload_id = $1

-- name: add_part
insert into upload_parts (id, upload_id, objects, sizes, bytes, digest)
values ($1, $2, $3, $4, $5, $6)
returning *

-- name: end
update uploads set status = $2, file_id = $3, part_ids = $4 where id = $1
returning *

-- name: doom_parts
insert into loose_objects (object, app_id, is_doomed)
select piece.object, uploads.app_id, true
from upload_parts
join uploads on uploads.id = upload_parts.upload_id,
lateral unnest(upload_parts.objects) as piece (object)
where uploads.id = any($1::text[]) and upload_parts.id <> all($2::text[])

-- name: forget_parts
delete from upload_parts where upload_id = any($1::text[])

-- name: lock_late
select id, app_id, bytes from uploads
where status = 'pending' and expires_at <= now()
order by expires_at
limit $1
for update skip locked

-- name: end_late
update uploads set status = 'expired' where id = any($1::text[])

-- name: forget_old
delete from uploads
where status <> 'pending' and expires_at < now() - $1::double precision * interval '1 second'

-- name: in_turn
select pg_try_advisory_xact_lock(hashtext('files'))
