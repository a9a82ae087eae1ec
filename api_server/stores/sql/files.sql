-- name: find
select * from files
where
    app_id = $1 and id = $3 and ($2::text is null or user_name = $2)
    and (expires_at is null or expires_at > now())

-- name: files_place
select created_at, seq from files
where
    app_id = $1 and ($2::text is null or user_name = $2) and ($3::text is null or purpose = $3)
    and id = $4

-- name: files_page
select * from files
where
    app_id = $1 and ($2::text is null or user_name = $2) and ($3::text is null or purpose = $3)
    and (created_at, seq) > ($4::timestamptz, $5::bigint)
    and (created_at, seq) < ($6::timestamptz, $7::bigint)
    and (expires_at is null or expires_at > now())

-- name: pieces
select part.object, part.bytes
from file_parts as part join files on files.id = part.file_id
where files.app_id = $1 and files.id = $2
order by part.number

-- name: taken_bytes
select bytes from app_files where app_id = $1

-- name: take_bytes
insert into app_files (app_id, bytes)
select $1, $2::bigint where $2::bigint <= $3::bigint
on conflict (app_id) do update set bytes = app_files.bytes + excluded.bytes
    where app_files.bytes + excluded.bytes <= $3::bigint
returning bytes

-- name: give_bytes
update app_files set bytes = app_files.bytes - gone.bytes
from (
    select app_id, sum(bytes)::bigint as bytes
    from unnest($1::text[], $2::bigint[]) as each (app_id, bytes)
    group by app_id
) as gone
where app_files.app_id = gone.app_id

-- name: add_file
insert into files (
    id, app_id, created_at, filename, purpose, content_type, bytes, digest, expires_at, user_name
) values (
    $1, $2, coalesce($3::timestamptz, now()), $4, $5, $6, $7, $8,
    coalesce($3::timestamptz, now()) + $9::double precision * interval '1 second', $10
)
on conflict (id) do nothing
returning *

-- name: add_pieces
insert into file_parts (file_id, number, object, bytes)
select $1, piece.number, piece.object, piece.bytes
from unnest($2::text[], $3::bigint[]) with ordinality as piece (object, bytes, number)

-- name: lock_file
select id, bytes from files
where app_id = $1 and id = $3 and ($2::text is null or user_name = $2)
for update

-- name: lock_expired
select id, app_id, bytes from files
where expires_at <= now()
order by expires_at
limit $1
for update skip locked

-- name: doom_pieces
insert into loose_objects (object, app_id, is_doomed)
select part.object, files.app_id, true
from file_parts as part join files on files.id = part.file_id
where files.id = any($1::text[])

-- name: forget_files
delete from files where id = any($1::text[])

-- name: in_turn
select pg_try_advisory_xact_lock(hashtext('files'))
