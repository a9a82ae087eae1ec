-- name: insert
insert into assistants (id, app_id, body) values ($1, $2, $3) returning id, created_at, body

-- name: ensure
insert into assistants (id, app_id, body) values ($1, $2, $3) on conflict (id) do nothing

-- name: find
select id, created_at, body from assistants where app_id = $1 and id = $2

-- name: lock
select id, created_at, body from assistants where app_id = $1 and id = $2 for no key update

-- name: change
update assistants set body = $3 where app_id = $1 and id = $2 returning id, created_at, body

-- name: delete
delete from assistants where app_id = $1 and id = $2

-- name: assistants_place
select created_at, seq from assistants where app_id = $1 and id = $2

-- name: assistants_page
select id, created_at, body from assistants
where app_id = $1 and (created_at, seq) > ($2, $3) and (created_at, seq) < ($4, $5)
