-- The ledger: one row for each request, by month, so that old months go as a whole.
-- `at` is when the request arrived and part of its name: the same line shipped twice is one row.
create table usage (
    at timestamptz not null,
    id uuid not null,
    app_id text not null,
    app text not null,
    end_user text,
    route text not null,
    model text,
    fallback_for text,
    replica text,
    request_id text not null,
    status integer not null,
    outcome text not null,
    error_code text,
    finish_reason text,
    is_stream boolean,
    cache text,
    retries integer not null default 0,
    prompt_tokens bigint,
    cached_tokens bigint,
    completion_tokens bigint,
    is_estimate boolean not null default false,
    queue_ms double precision,
    engine_ms double precision,
    first_token_ms double precision,
    own_ms double precision,
    total_ms double precision,
    primary key (at, id)
) partition by range (at);

create index usage_by_app on usage (app_id, at);

-- What was said, of apps that want it kept (their policy's store_content); at and id as in `usage`.
create table usage_content (
    at timestamptz not null,
    id uuid not null,
    app_id text not null,
    request text not null,
    answer text not null,
    is_cut boolean not null,
    primary key (at, id)
) partition by range (at);

-- Makes the partitions of the month that a day lies in, where there are none. To attach a table
-- disturbs readers and writers less than to create it as a partition.
create function make_usage_partition(day date) returns void language plpgsql as $$
declare
    begins timestamptz := date_trunc('month', day::timestamp) at time zone 'UTC';
    ends timestamptz := (date_trunc('month', day::timestamp) + interval '1 month') at time zone 'UTC';
    parent text;
    partition text;
begin
    foreach parent in array array['usage', 'usage_content'] loop
        partition := parent || '_' || to_char(day, 'YYYY_MM');
        -- Not to_regclass, which remembers that there was none.
        if exists (select from pg_class where relname = partition and pg_table_is_visible(oid)) then
            continue;
        end if;
        perform pg_advisory_xact_lock(7264127403);
        if exists (select from pg_class where relname = partition and pg_table_is_visible(oid)) then
            continue;
        end if;
        execute format('create table %I (like %I including all)', partition, parent);
        execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                       parent, partition, begins, ends);
    end loop;
end
$$;

-- Drops the partitions that ended before a time; says how many months. One process at a time.
create function drop_usage_before(kept_from timestamptz) returns integer language plpgsql as $$
declare
    partition text;
    dropped integer := 0;
begin
    if not pg_try_advisory_xact_lock(7264127404) then
        return 0;
    end if;
    set local lock_timeout = '2s';
    for partition in
        select child.relname
        from pg_inherits join pg_class child on child.oid = inhrelid
        where inhparent in ('usage'::regclass, 'usage_content'::regclass)
          and child.relname ~ '^usage(_content)?_[0-9]{4}_[0-9]{2}$'
          and (to_date(right(child.relname, 7), 'YYYY_MM')::timestamp + interval '1 month')
              at time zone 'UTC' <= kept_from
    loop
        execute format('drop table %I', partition);
        dropped := dropped + (partition not like 'usage_content%')::integer;
    end loop;
    return dropped;
end
$$;
