-- name: announce
insert into loose_objects (object, app_id) values ($1, $2)

-- name: renew
update loose_objects set since = now() where object = any($1::text[])

-- name: tie
delete from loose_objects where object = any($1::text[]) and not is_doomed
returning object

-- name: doom
update loose_objects set is_doomed = true where object = any($1::text[])

-- name: doom_again
insert into loose_objects (object, app_id, is_doomed)
select object, $2, true from unnest($1::text[]) as each (object)
on conflict (object) do update set is_doomed = true

-- name: doom_old
with old as (
    select object from loose_objects
    where not is_doomed and since < now() - $1::double precision * interval '1 second'
    order by since
    limit $2
    for update skip locked
)
update loose_objects set is_doomed = true from old where loose_objects.object = old.object

-- name: doomed
select object from loose_objects where is_doomed and since <= now() order by since limit $1

-- name: put_off
update loose_objects set since = now() + $2::double precision * interval '1 second'
where object = any($1::text[]) and is_doomed

-- name: forget
delete from loose_objects where object = any($1::text[]) and is_doomed
