-- Apps and what they show to prove who they are. Secrets are kept as SHA-256: they are random and
-- long, so that no salt and no slow hash is needed, and a look-up is one hash.

-- Each change gets a number. Whoever keeps apps in memory asks for those after the last one that he
-- knows; a deletion leaves no row behind, so that he has to read all again.
create table app_changes (
    only_one boolean primary key default true check (only_one),
    change bigint not null default 0,
    deletion bigint not null default 0
);
insert into app_changes default values;

create table apps (
    id text primary key,
    name text not null unique,
    policy jsonb not null default '{}',
    source text not null default 'admin' check (source in ('admin', 'file', 'built_in')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    revoked_at timestamptz,
    change bigint not null default 0
);
create index apps_by_change on apps (change);

create table app_credentials (
    id text primary key,
    app_id text not null references apps (id),
    kind text not null check (kind in ('key', 'app_code')),
    hash bytea not null unique,
    hint text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    change bigint not null default 0
);
create index app_credentials_by_app on app_credentials (app_id);
create index app_credentials_by_change on app_credentials (change);

-- Before a statement, so that the row of app_changes is taken until the end of the transaction:
-- changes are seen in the order of their numbers, and none comes late with a lower one.
create function count_app_change() returns trigger language plpgsql as $$
begin
    update app_changes
    set change = change + 1,
        deletion = case when tg_op in ('DELETE', 'TRUNCATE') then change + 1 else deletion end;
    perform pg_notify('apps_changed', '');
    return null;
end
$$;

create function number_app_change() returns trigger language plpgsql as $$
begin
    new.change := (select change from app_changes);
    return new;
end
$$;

create trigger apps_changed before insert or update or delete or truncate on apps
    for each statement execute function count_app_change();
create trigger app_credentials_changed
    before insert or update or delete or truncate on app_credentials
    for each statement execute function count_app_change();
create trigger apps_numbered before insert or update on apps
    for each row execute function number_app_change();
create trigger app_credentials_numbered before insert or update on app_credentials
    for each row execute function number_app_change();

-- Who asks where authentication is off, and with the development key. They have no credentials.
insert into apps (id, name, source) values
    ('app_anyone', 'anyone', 'built_in'),
    ('app_development', 'development', 'built_in');
