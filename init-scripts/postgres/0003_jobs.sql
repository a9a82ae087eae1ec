-- Jobs: accepted, done in a fair order, kept for a while. docs/decisions/0009.
create table jobs (
    id text primary key,
    app_id text not null,
    user_name text,
    state text not null default 'queued' check (
        state in ('queued', 'processing', 'completed', 'error', 'cancelled', 'expired')
    ),
    request_type text not null,
    chat text not null,
    model text not null,
    class text not null check (class in ('interactive', 'default', 'batch')),
    step bigint not null check (step > 0),
    idempotency_key text,
    digest bytea not null,
    batch_id text,
    item integer not null default 0,
    attempts integer not null default 0,
    fence bigint not null default 0,
    lease_owner text,
    lease_until timestamptz,
    error_code text,
    message text,
    retry_possible boolean,
    response json,
    created_at timestamptz not null default now(),
    queued_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz not null
);

create unique index jobs_by_key on jobs (app_id, idempotency_key)
    where idempotency_key is not null;
create index jobs_by_app on jobs (app_id, created_at desc, id desc);
create index jobs_by_batch on jobs (batch_id, item) where batch_id is not null;
create index jobs_by_lease on jobs (lease_until) where state = 'processing';
create index jobs_by_expiry on jobs (expires_at) where state in ('queued', 'processing');
create index jobs_by_end on jobs (finished_at) where finished_at is not null;

-- Only those that wait; the order is (tag, seq).
create table job_queue (
    job_id text primary key,
    tag bigint not null,
    seq bigint generated always as identity,
    app_id text not null,
    model text not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

create index job_queue_in_order on job_queue (tag, seq);

-- Where each app's jobs of a class end in that order, and how far the order is worked off: a
-- sequence, because nobody should wait for whoever moves it.
create table job_flows (
    app_id text not null,
    class text not null,
    last_tag bigint not null,
    primary key (app_id, class)
);
create sequence job_clock minvalue 0 start 0;

-- How many wait in each range of tags, at three widths, so that a position is a sum of few rows.
-- Written as differences, which nobody has to wait for; somebody adds them up now and then.
create table job_counts (
    level smallint not null,
    bucket bigint not null,
    n bigint not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

create index job_counts_in_order on job_counts (level, bucket) include (n);

create function count_queued() returns trigger language plpgsql as $$
begin
    insert into job_counts (level, bucket, n)
    select l.level, changed.tag >> l.level, case tg_op when 'INSERT' then 1 else -1 end * count(*)
    from changed, (values (20), (28), (36)) as l (level)
    group by 1, 2;
    if tg_op = 'INSERT' and exists (select from changed) then
        perform pg_notify('jobs', 'new');
    end if;
    return null;
end
$$;

create trigger job_queue_grows after insert on job_queue
    referencing new table as changed for each statement execute function count_queued();
create trigger job_queue_shrinks after delete on job_queue
    referencing old table as changed for each statement execute function count_queued();

create table job_workers (
    id text primary key,
    slots integer not null,
    busy integer not null,
    mean_seconds double precision,
    seen_at timestamptz not null default now()
);
