-- name: last_change
select change, deletion from app_changes

-- name: apps_since
select id, name, policy, revoked_at is not null as is_revoked
from apps where change > $1 and source <> 'built_in' order by id

-- name: credentials_since
select id, app_id, kind, hash, hint, extract(epoch from expires_at)::float8 as expires_at,
       revoked_at is not null as is_revoked
from app_credentials
where change > $1 and ($1 >= 0 or revoked_at is null and (expires_at is null or expires_at > now()))

-- name: list_apps
select * from apps where source <> 'built_in' order by created_at, id

-- name: find_app
select * from apps where (id = $1 or name = $1) and source <> 'built_in'

-- name: credentials_of
select * from app_credentials where app_id = any($1::text[]) order by created_at, id

-- name: add_app
insert into apps (id, name, policy, source) values ($1, $2, $3, $4)

-- name: add_credential
insert into app_credentials (id, app_id, kind, hash, hint) values ($1, $2, $3, $4, $5)

-- name: end_credentials
update app_credentials
set expires_at = case when $3::float8 > 0
                      then least(expires_at, now() + make_interval(secs => $3)) else expires_at end,
    revoked_at = case when $3::float8 > 0 then revoked_at else now() end
where app_id = $1 and kind = $2 and revoked_at is null and id <> all($4::text[])

-- name: revoke_credential
update app_credentials set revoked_at = now()
where app_id = $1 and (id = $2 or hint = $2) and revoked_at is null

-- name: revoke_all_credentials
update app_credentials set revoked_at = now() where app_id = $1 and revoked_at is null

-- name: revoke_app
update apps set revoked_at = now(), updated_at = now() where id = $1 and revoked_at is null

-- name: set_policy
update apps set policy = $2, updated_at = now() where id = $1

-- name: file_apps
select a.id, a.name, a.policy, a.revoked_at is not null as is_revoked,
       coalesce(array_agg(c.hash) filter (where c.kind = 'app_code' and c.revoked_at is null),
                '{}') as codes
from apps a left join app_credentials c on c.app_id = a.id
where a.source = 'file' group by a.id

-- name: take_back_app
update apps set policy = $2, revoked_at = null, updated_at = now() where id = $1

-- name: revoke_hash
update app_credentials set revoked_at = now() where app_id = $1 and hash = $2

-- name: take_back_hash
update app_credentials set revoked_at = null, expires_at = null where app_id = $1 and hash = $2

-- name: owner_of_hash
select app_id from app_credentials where hash = $1

-- name: lock_seeds
select pg_advisory_xact_lock(7264127405)

-- name: rename_app
update apps set name = $2, updated_at = now() where id = $1

-- name: names_of_others
select name from apps where source <> 'file'
