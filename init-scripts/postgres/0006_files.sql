-- Files, uploads, vector stores. Contents are in the object store, chunks in Qdrant.
-- docs/decisions/0014. `user_name`: the end user who brought it, or for whose thread a vector store
-- was made; null where it is the app itself.
create table files (
    id text primary key,
    app_id text not null,
    user_name text,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    filename text not null,
    purpose text not null,
    content_type text not null,
    bytes bigint not null,
    digest bytea not null,
    expires_at timestamptz
);
comment on column files.digest is
    'SHA-256 of the content; where it came in several parts, of their SHA-256s.';
create index files_in_order on files (app_id, created_at, seq);
create index files_of_users on files (app_id, user_name, created_at, seq)
    where user_name is not null;
create index files_by_expiry on files (expires_at) where expires_at is not null;

-- What the files of an app take, and its uploads that are not completed yet: for its quota.
create table app_files (
    app_id text primary key,
    bytes bigint not null
);

-- A file is the contents of its objects, one behind the other: an upload's parts stay as they came.
create table file_parts (
    file_id text not null references files (id) on delete cascade,
    number integer not null,
    object text not null unique,
    bytes bigint not null,
    primary key (file_id, number)
);

create table uploads (
    id text primary key,
    app_id text not null,
    user_name text,
    created_at timestamptz not null default now(),
    status text not null default 'pending' check (
        status in ('pending', 'completed', 'cancelled', 'expired')
    ),
    filename text not null,
    purpose text not null,
    content_type text not null,
    bytes bigint not null,
    expires_at timestamptz not null,
    file_id text,
    part_ids text[],
    file_expires_after_seconds integer
);
create index uploads_by_age on uploads (expires_at) where status <> 'pending';
create index uploads_by_expiry on uploads (expires_at) where status = 'pending';

create table upload_parts (
    id text primary key,
    upload_id text not null references uploads (id) on delete cascade,
    created_at timestamptz not null default now(),
    objects text[] not null,
    sizes bigint[] not null,
    bytes bigint not null,
    digest bytea not null
);
create index upload_parts_by_upload on upload_parts (upload_id);

-- Objects that belong to no file: they are being written, or are to be removed. Written down before
-- the object is, and taken out in the transaction that makes it a part of something. One that is
-- doomed will be removed, and can become a part of nothing any more.
create table loose_objects (
    object text primary key,
    app_id text not null,
    since timestamptz not null default now(),
    is_doomed boolean not null default false
);
create index loose_objects_by_age on loose_objects (is_doomed, since);

create table vector_stores (
    id text primary key,
    app_id text not null,
    user_name text,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    name text not null default '',
    description text,
    metadata json not null default '{}',
    expires_after_days integer,
    last_active_at timestamptz not null default now(),
    expired_at timestamptz
);
create index vector_stores_in_order on vector_stores (app_id, created_at, seq);
create index vector_stores_to_expire on vector_stores (last_active_at)
    where expired_at is null and expires_after_days is not null;

create table vector_store_batches (
    id text primary key,
    vector_store_id text not null references vector_stores (id) on delete cascade,
    app_id text not null,
    created_at timestamptz not null default now(),
    cancelled_at timestamptz
);
create index vector_store_batches_by_store on vector_store_batches (vector_store_id);

-- `generation` is new with each time that a file is taken in: chunks of an older one do not count.
-- While it is in progress, `chunks` is how many of them are kept, from the first on.
create table vector_store_files (
    vector_store_id text not null references vector_stores (id) on delete cascade,
    file_id text not null references files (id) on delete cascade,
    app_id text not null,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    status text not null default 'in_progress' check (
        status in ('in_progress', 'completed', 'cancelled', 'failed')
    ),
    last_error json,
    chunking json not null,
    attributes json not null default '{}',
    usage_bytes bigint not null default 0,
    chunks integer not null default 0,
    batch_id text,
    job_id text not null,
    generation text not null,
    primary key (vector_store_id, file_id)
);
create index vector_store_files_in_order
    on vector_store_files (vector_store_id, created_at, seq);
create index vector_store_files_by_batch on vector_store_files (batch_id, created_at, seq)
    where batch_id is not null;
create index vector_store_files_by_file on vector_store_files (file_id);
create index vector_store_files_under_way on vector_store_files (job_id)
    where status = 'in_progress';

-- Chunks in Qdrant that no vector store has any more: they are to be removed there, at once and once
-- more later. What a worker that was killed had sent may come after the first time.
create table stale_chunks (
    id bigint generated always as identity primary key,
    app_id text not null,
    vector_store_id text not null,
    file_id text,
    generation text,
    since timestamptz not null default now(),
    was_removed boolean not null default false
);
create index stale_chunks_by_age on stale_chunks (since);

-- However a file leaves a vector store, also with the file itself: its chunks are to go as well. With
-- a store that is deleted, all of them go at once.
create function note_stale_chunks() returns trigger language plpgsql as $$
begin
    insert into stale_chunks (app_id, vector_store_id, file_id, generation)
    select gone.app_id, gone.vector_store_id, gone.file_id, gone.generation
    from gone join vector_stores on vector_stores.id = gone.vector_store_id;
    return null;
end
$$;
create trigger stale_chunks_of_files after delete on vector_store_files
    referencing old table as gone for each statement execute function note_stale_chunks();

create function note_stale_store() returns trigger language plpgsql as $$
begin
    insert into stale_chunks (app_id, vector_store_id) select app_id, id from gone;
    return null;
end
$$;
create trigger stale_chunks_of_stores after delete on vector_stores
    referencing old table as gone for each statement execute function note_stale_store();

-- Vector stores with what is known of their files.
create view vector_stores_told as
select
    store.id, store.app_id, store.seq, store.created_at, store.name, store.description,
    store.metadata::text as metadata, store.expires_after_days, store.last_active_at,
    store.expired_at is not null
    or coalesce(store.last_active_at + store.expires_after_days * interval '1 day' < now(), false)
        as is_expired,
    files.*
from vector_stores as store
cross join lateral (
    select
        count(*) filter (where status = 'in_progress') as in_progress,
        count(*) filter (where status = 'completed') as completed,
        count(*) filter (where status = 'failed') as failed,
        count(*) filter (where status = 'cancelled') as cancelled,
        coalesce(sum(usage_bytes), 0)::bigint as usage_bytes
    from vector_store_files where vector_store_id = store.id
) as files;
