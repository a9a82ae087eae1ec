-- Keeps one answer of an app; its oldest ones go until all have room.
--
-- KEYS  the answer, the app's answers by the time they end, the app's answers by size
-- ARGV  the answer's name, its bytes, seconds to keep it, the most bytes of one app, the prefix of
--       the keys of its answers
--
-- Returns how many had to go. Sizes are those of values; what Redis adds to each is not counted.

local name, value = ARGV[1], ARGV[2]
local seconds, most, prefix = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local by_end, sizes = KEYS[2], KEYS[3]
local total = '*'  -- no digest is called so

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local function forget(each)
  local size = redis.call('HGET', sizes, each)
  if size then
    redis.call('HINCRBY', sizes, total, -tonumber(size))
    redis.call('HDEL', sizes, each)
  end
  redis.call('ZREM', by_end, each)
end

for _, each in ipairs(redis.call('ZRANGEBYSCORE', by_end, '-inf', now)) do
  forget(each)
end
forget(name)

local gone = 0
while tonumber(redis.call('HGET', sizes, total) or '0') + #value > most do
  local oldest = redis.call('ZRANGE', by_end, 0, 0)[1]
  if not oldest then
    break
  end
  forget(oldest)
  redis.call('DEL', prefix .. oldest)
  gone = gone + 1
end

if #value <= most then
  redis.call('SET', KEYS[1], value, 'PX', math.ceil(seconds * 1000))
  redis.call('ZADD', by_end, now + seconds, name)
  redis.call('HSET', sizes, name, #value)
  redis.call('HINCRBY', sizes, total, #value)
  redis.call('PEXPIRE', by_end, math.ceil(seconds * 1000) + 1000)
  redis.call('PEXPIRE', sizes, math.ceil(seconds * 1000) + 1000)
end
return gone
