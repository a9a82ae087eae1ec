-- Assistants, threads, messages, runs: OpenAI's Assistants API, kept here. docs/decisions/0013.
-- Lists are in the order of (created_at, seq): what is imported keeps its own date.
create table assistants (
    id text primary key,
    app_id text not null,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    body json not null
);
create index assistants_in_order on assistants (app_id, created_at, seq);

-- `user_name`: the end user whose thread it is, null where the app itself made it.
create table threads (
    id text primary key,
    app_id text not null,
    user_name text,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    tool_resources json,
    metadata json not null default '{}'
);

create table messages (
    id text primary key,
    thread_id text not null references threads (id) on delete cascade,
    app_id text not null,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    status text not null default 'completed' check (
        status in ('in_progress', 'incomplete', 'completed')
    ),
    role text not null check (role in ('user', 'assistant')),
    content json not null,
    assistant_id text,
    run_id text,
    attachments json,
    metadata json not null default '{}',
    incomplete_details json,
    completed_at timestamptz,
    incomplete_at timestamptz
);
create index messages_in_order on messages (thread_id, created_at, seq);
-- As if threads were few and long: else a page of a long one is made by reading and sorting all of
-- it, which is the cheapest for a thread of the usual length.
alter table messages alter column thread_id set (n_distinct = 10);
create index messages_by_run on messages (run_id) where run_id is not null;

-- `body` is what the run was asked for, as it was then: model, instructions, tools, limits.
-- `leg` counts how often it was put into the queue: at first, after each submit_tool_outputs, after
-- each resume; `job_id` is the job of the newest. `last_event` is the number of the newest event;
-- `has_events` until they are forgotten.
create table runs (
    id text primary key,
    thread_id text not null references threads (id) on delete cascade,
    app_id text not null,
    user_name text,
    assistant_id text not null,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    status text not null default 'queued' check (
        status in (
            'queued', 'in_progress', 'requires_action', 'cancelling', 'cancelled', 'failed',
            'completed', 'incomplete', 'expired'
        )
    ),
    body json not null,
    metadata json not null default '{}',
    leg integer not null default 1,
    job_id text not null,
    last_event bigint not null default 0,
    has_events boolean not null default true,
    required_action json,
    last_error json,
    can_resume boolean not null default false,
    incomplete_details json,
    prompt_tokens bigint not null default 0,
    completion_tokens bigint not null default 0,
    started_at timestamptz,
    expires_at timestamptz,
    cancelled_at timestamptz,
    failed_at timestamptz,
    completed_at timestamptz,
    ended_at timestamptz
);
create index runs_in_order on runs (thread_id, created_at, seq);
-- One at a time in each thread: whoever comes second gets a 400.
create unique index runs_active on runs (thread_id)
    where status in ('queued', 'in_progress', 'requires_action', 'cancelling');
create index runs_by_expiry on runs (expires_at)
    where status in ('queued', 'in_progress', 'requires_action', 'cancelling');
create index runs_by_end on runs (ended_at) where ended_at is not null and has_events;

create table run_steps (
    id text primary key,
    run_id text not null references runs (id) on delete cascade,
    thread_id text not null,
    app_id text not null,
    assistant_id text not null,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    type text not null check (type in ('message_creation', 'tool_calls')),
    status text not null default 'in_progress' check (
        status in ('in_progress', 'cancelled', 'failed', 'completed', 'expired')
    ),
    details json not null,
    last_error json,
    usage json,
    expired_at timestamptz,
    cancelled_at timestamptz,
    failed_at timestamptz,
    completed_at timestamptz
);
create index run_steps_in_order on run_steps (run_id, created_at, seq);

-- What a stream of the run says, so that it can be read again and followed from any process.
create table run_events (
    run_id text not null references runs (id) on delete cascade,
    n bigint not null,
    event text not null,
    data text not null,
    primary key (run_id, n)
);

-- Calls of functions: those that a client must answer, and those that the stack does itself.
create table actions (
    id text primary key,
    app_id text not null,
    user_name text,
    thread_id text not null references threads (id) on delete cascade,
    run_id text not null references runs (id) on delete cascade,
    step_id text not null,
    tool_call_id text not null,
    name text not null,
    arguments text not null,
    is_ours boolean not null,
    status text not null default 'pending' check (
        status in ('pending', 'completed', 'failed', 'cancelled', 'expired')
    ),
    output text,
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    unique (run_id, tool_call_id)
);
create index actions_by_app on actions (app_id, created_at, seq);
create index actions_by_thread on actions (thread_id, created_at, seq);
create index actions_pending on actions (app_id, created_at, seq) where status = 'pending';
