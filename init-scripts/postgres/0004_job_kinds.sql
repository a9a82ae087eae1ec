-- One durable queue for several kinds of work: chats of the jobs API, runs of assistants, files to
-- take into vector stores. Each kind has an order, counts and workers of its own.
-- docs/decisions/0013.
alter table jobs add column kind text not null default 'chat'
    check (kind in ('chat', 'run', 'ingest'));
drop index jobs_by_app;
create index jobs_by_app on jobs (app_id, created_at desc, id desc) where kind = 'chat';
drop index jobs_by_lease;
create index jobs_by_lease on jobs (kind, lease_until) where state = 'processing';
create index jobs_by_wait on jobs (kind, expires_at) where state = 'queued';

alter table job_queue add column kind text not null default 'chat';
drop index job_queue_in_order;
create index job_queue_in_order on job_queue (kind, tag, seq);

alter table job_counts add column kind text not null default 'chat';
drop index job_counts_in_order;
create index job_counts_in_order on job_counts (kind, level, bucket) include (n);

alter table job_workers add column kind text not null default 'chat';

-- `job_clock` is that of chats.
create sequence job_clock_run minvalue 0 start 0;
create sequence job_clock_ingest minvalue 0 start 0;

create or replace function count_queued() returns trigger language plpgsql as $$
begin
    insert into job_counts (kind, level, bucket, n)
    select
        changed.kind, l.level, changed.tag >> l.level,
        case tg_op when 'INSERT' then 1 else -1 end * count(*)
    from changed, (values (20), (28), (36)) as l (level)
    group by 1, 2, 3;
    if tg_op = 'INSERT' and exists (select from changed) then
        perform pg_notify('jobs', 'new');
    end if;
    return null;
end
$$;
