-- A process says that it lives, and hears of the others.
--
-- KEYS: the registry, a zset of processes and until when (us) each is taken to live; the epoch.
-- ARGV: process, for how long this is good (us), in what last time it asks for the others (us), an epoch
--   to begin with where there is none: another one than before means that Redis has lost all;
--   1 to be among the living, 0 to ask only; too late after (us, 0: never), and for how long one
--   is out of touch before it is taken to be on its own.
-- Returns {now us, its place among the living, how many live, how many of them were not heard of
--   in that time, whether it was taken to live, the epoch}.

local DAY = 86400

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local good, asked = tonumber(ARGV[2]), tonumber(ARGV[3])
local deadline, silent = tonumber(ARGV[6]), tonumber(ARGV[7])
if deadline > 0 and now > deadline then
  redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', now + good - silent - 1), ARGV[1])
  return {now, 0, 0, 0, 0, ''}
end
local known = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now))
if ARGV[5] == '1' then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + good), ARGV[1])
end
redis.call('EXPIRE', KEYS[1], DAY)
redis.call('SET', KEYS[2], ARGV[4], 'NX')
redis.call('EXPIRE', KEYS[2], DAY)

local living = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local index, unheard = 0, 0
for at = 1, #living, 2 do
  if living[at] < ARGV[1] then
    index = index + 1
  end
  if tonumber(living[at + 1]) - good < now - asked then
    unheard = unheard + 1
  end
end
return {now, index, #living / 2, unheard, known > now and 1 or 0, redis.call('GET', KEYS[2])}
