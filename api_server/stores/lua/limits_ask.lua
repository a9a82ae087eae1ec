-- Grants units of several limits to several requests, all or nothing for each request.
--
-- KEYS: the registry of processes, the epoch, then a hash for each limit.
-- ARGV[1], msgpack: {process, too late after (us, 0: never), limits, requests}
--   a limit: {limit, period us (0: places, held at the same time), life us, {bucket, units given
--     back, ...}, {age us, units used without a grant, ...}, places in use, wanted on top, tells}
--   a request: {number of a limit, units, ...}
-- Returns msgpack: {now us, processes, limits, requests}
--   a limit: {bucket, granted, counted, {in us, units that come free, ...}}
--   a request: 0 if it was granted, else the number of the limit that has too little.
-- ARGV[2..3]: for how long (us) a beat is good, and after how long a process is taken to be out of
-- touch: then it may use its share alone, and the others get no more than theirs.
-- ARGV[4]: the epoch that the process knows, if it knows one.
-- Nothing was done where `processes` is 0: the call came too late, and nobody waits for it; or all
-- that was counted is lost, which the process must hear of first.

local PARTS = 400
local EXACT = 8

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local call = cmsgpack.unpack(ARGV[1])
local process, deadline, limits, requests = call[1], call[2], call[3], call[4]
local good, silent = tonumber(ARGV[2]), tonumber(ARGV[3])
if deadline > 0 and now > deadline then
  -- It goes on alone, then.
  redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', now + good - silent - 1), process)
  return cmsgpack.pack({now, 0, {}, {}})
end

if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then
  return cmsgpack.pack({now, 0, {}, {}})
end

local live, processes, away, away_since = {}, 0, 0, now
local registry = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES')
for at = 1, #registry, 2 do
  live[registry[at]] = true
  processes = processes + 1
  local heard = tonumber(registry[at + 1]) - good
  if heard < now - silent and registry[at] ~= process then
    away = away + 1
    away_since = math.min(away_since, heard)
  end
end
processes = math.max(processes, 1)

local function text(number)
  return string.format('%.0f', number)
end

local function add(state, bucket, units)
  redis.call('HINCRBY', state.key, text(bucket), text(units))
  state.counted = state.counted + units
end

-- A hash of buckets: when they began, counted in parts of the period, and what was granted then.
-- `s` is their sum, `o` the oldest that may be there.
local function open_period(state, limit)
  state.width = limit[2] / PARTS
  state.keeps = limit[2] + limit[3]
  state.bucket = math.floor(now / state.width)
  state.first = math.floor((now - state.keeps) / state.width)
  local found = redis.call('HMGET', state.key, 's', 'o')
  state.counted = tonumber(found[1] or 0)
  local oldest = tonumber(found[2] or state.first)
  if state.first - oldest > PARTS * 2 then
    redis.call('DEL', state.key)
    state.counted = 0
  elseif state.first > oldest then
    local gone = {}
    for bucket = oldest, state.first - 1 do
      gone[#gone + 1] = text(bucket)
    end
    for _, units in ipairs(redis.call('HMGET', state.key, unpack(gone))) do
      state.counted = state.counted - tonumber(units or 0)
    end
    redis.call('HDEL', state.key, unpack(gone))
  end
  local back = limit[4]
  for at = 1, #back, 2 do
    local there = tonumber(redis.call('HGET', state.key, text(back[at])) or 0)
    local units = math.min(back[at + 1], there)
    if units > 0 and back[at] >= state.first then
      add(state, back[at], -units)
    end
  end
  local used = limit[5]
  for at = 1, #used, 2 do
    local bucket = math.floor((now - used[at]) / state.width)
    if bucket >= state.first then
      add(state, bucket, used[at + 1])
    end
  end
end

local function close_period(state)
  if state.granted > 0 then
    add(state, state.bucket, state.granted)
  end
  redis.call('HSET', state.key, 's', text(state.counted), 'o', text(state.first))
  redis.call('PEXPIRE', state.key, text(math.ceil((state.keeps + state.width) / 1000) + 1000))
end

-- When units come free: the next ones exactly, later ones in a sixteenth of the period at a time.
local function frees(state)
  local buckets, fields = {}, redis.call('HGETALL', state.key)
  for at = 1, #fields, 2 do
    local bucket, units = tonumber(fields[at]), tonumber(fields[at + 1])
    if bucket and units > 0 then
      buckets[#buckets + 1] = {bucket, units}
    end
  end
  table.sort(buckets, function(a, b) return a[1] < b[1] end)
  local told, begun = {}, 0
  for at, each in ipairs(buckets) do
    local free_in = (each[1] + 1) * state.width + state.keeps - now
    if at > EXACT + 1 and each[1] - begun < PARTS / 16 then
      told[#told - 1] = free_in
      told[#told] = told[#told] + each[2]
    else
      told[#told + 1] = free_in
      told[#told + 1] = each[2]
      begun = each[1]
    end
  end
  return told
end

-- A hash of processes: how many places each holds. Those of the dead are free.
local function open_places(state, limit)
  state.bucket, state.counted = 0, limit[6]
  local fields = redis.call('HGETALL', state.key)
  for at = 1, #fields, 2 do
    if fields[at] ~= process then
      if live[fields[at]] then
        state.counted = state.counted + tonumber(fields[at + 1])
      else
        redis.call('HDEL', state.key, fields[at])
      end
    end
  end
end

local function close_places(state, limit)
  local held = limit[6] + state.granted
  state.counted = state.counted + state.granted
  if held > 0 then
    redis.call('HSET', state.key, process, text(held))
    redis.call('EXPIRE', state.key, 86400)
  else
    redis.call('HDEL', state.key, process)
  end
end

-- What those who are in touch may still have, if the others use their share since then.
local function share_of_free(state, limit)
  local since, before = math.floor(away_since / state.width), 0
  local fields = redis.call('HGETALL', state.key)
  for at = 1, #fields, 2 do
    local bucket = tonumber(fields[at])
    if bucket and bucket < since then
      before = before + tonumber(fields[at + 1])
    end
  end
  local ours = math.floor((limit[1] - before) * (processes - away) / processes)
  return ours - (state.counted - before)
end

local states = {}
for number, limit in ipairs(limits) do
  local state = {key = KEYS[number + 2], granted = 0, refused = false}
  if limit[2] > 0 then
    open_period(state, limit)
  else
    open_places(state, limit)
  end
  state.free = limit[1] - state.counted
  if away > 0 and limit[2] > 0 then
    state.free = math.min(state.free, share_of_free(state, limit))
  end
  states[number] = state
end

local verdicts = {}
for number, request in ipairs(requests) do
  local verdict = 0
  for at = 1, #request, 2 do
    if verdict == 0 and states[request[at]].free < request[at + 1] then
      verdict = request[at]
      states[verdict].refused = true
    end
  end
  if verdict == 0 then
    for at = 1, #request, 2 do
      local state = states[request[at]]
      state.free = state.free - request[at + 1]
      state.granted = state.granted + request[at + 1]
    end
  end
  verdicts[number] = verdict
end

local answers = {}
for number, limit in ipairs(limits) do
  local state = states[number]
  if not state.refused and limit[7] > 0 and state.free > 0 then
    local fair = math.floor(state.free / (2 * processes))
    state.granted = state.granted + math.min(limit[7], fair)
  end
  local told = {}
  if limit[2] > 0 then
    close_period(state)
    if state.refused or limit[8] == 1 then
      told = frees(state)
    end
  else
    close_places(state, limit)
  end
  answers[number] = {state.bucket, state.granted, state.counted, told}
end
return cmsgpack.pack({now, processes, answers, verdicts})
