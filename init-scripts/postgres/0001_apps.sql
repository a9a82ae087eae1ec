-- Apps and what they show to prove who they are. Secrets are kept as SHA-256: they are random and
-- long, so that no salt and no slow hash is needed, and a look-up is one hash.
create table apps (
    id text primary key,
    name text not null unique,
    policy jsonb not null default '{}',
    source text not null default 'admin' check (source in ('admin', 'file')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    revoked_at timestamptz
);

create table app_credentials (
    id text primary key,
    app_id text not null references apps (id),
    kind text not null check (kind in ('key', 'app_code')),
    hash bytea not null unique,
    hint text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

create index app_credentials_by_app on app_credentials (app_id);

create function tell_of_apps() returns trigger language plpgsql as $$
begin
    perform pg_notify('apps_changed', '');
    return null;
end
$$;

create trigger apps_changed after insert or update or delete on apps
    for each statement execute function tell_of_apps();
create trigger app_credentials_changed after insert or update or delete on app_credentials
    for each statement execute function tell_of_apps();
