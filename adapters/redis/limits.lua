-- domain.rates on the server: the same whole numbers, the server's clock, one step for all processes.
-- KEYS: the project's hash, its running requests (by the end of their lease), its purse. One hash tag, one slot.
-- ARGV: the verb, then what the verb says below. Every asker adds what it last heard and what it let through alone,
-- so that a server that lost its memory, or was away, is told by those who remember.
--
-- Numbers of Lua are doubles: level, times and counts stay below 2^53. Money does not, so it is never a number here:
-- HINCRBY adds it in 64 bits, and sums are compared as decimal text.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ms = math.floor(now / 1000)
local REQUEST = 60000000
local KEPT = 33 * 86400 -- seconds; a month that nobody asked in is over by then

local function whole(number)
  return string.format('%.0f', number)
end

local function number(text)
  return tonumber(text or '0')
end

-- Months of the proleptic calendar since March of the year 0, from days (era = 400 years = 146097 days).
local function month_of_now()
  local day = math.floor(now / 86400000000) + 719468
  local era = math.floor(day / 146097)
  local doe = day - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  return (era * 400 + yoe) * 12 + math.floor((5 * doy + 2) / 153)
end

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- per minute, per month, at once, request, lease in ms, heard level, at, month, used, own level, own requests
local function admit()
  local per_minute, per_month, at_once = number(ARGV[2]), number(ARGV[3]), number(ARGV[4])
  local kept = redis.call('HMGET', KEYS[1], 'level', 'at', 'month', 'used')
  local level, at, month, used = number(kept[1]), number(kept[2]), number(kept[3]), number(kept[4])
  local heard_month, heard_used = number(ARGV[9]), number(ARGV[10])
  local own_level, own_used = number(ARGV[11]), number(ARGV[12])
  if number(ARGV[8]) > at then level, at = number(ARGV[7]), number(ARGV[8]) end
  if heard_month > month then month, used = heard_month, heard_used end
  if heard_month == month and heard_used > used then used = heard_used end

  local before = {level, at, month, used}
  local bucket = per_minute * REQUEST
  level = math.max(0, level - per_minute * math.max(0, now - at))
  level = math.min(bucket, level + own_level)
  at = now
  local this_month = month_of_now()
  if this_month > month then month, used = this_month, 0 end
  used = used + own_used

  local running = 0
  if at_once > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', whole(ms))
    running = redis.call('ZCARD', KEYS[2])
  end
  local refused = 0
  if per_month > 0 and used + 1 > per_month then refused = 1
  elseif per_minute > 0 and level + REQUEST > bucket then refused = 2
  elseif at_once > 0 and running + 1 > at_once then refused = 3
  end

  if refused == 0 then
    if per_minute > 0 then level = level + REQUEST end
    used = used + 1
    if at_once > 0 then
      redis.call('ZADD', KEYS[2], whole(ms + number(ARGV[6])), ARGV[5])
      redis.call('PEXPIRE', KEYS[2], 2 * number(ARGV[6]))
    end
  end
  -- What is refused changes nothing, and a storm of it writes nothing.
  if refused > 0 and own_used == 0 then
    return {refused, now, before[1], before[2], before[3], before[4]}
  end
  redis.call('HSET', KEYS[1], 'level', whole(level), 'at', whole(at), 'month', whole(month), 'used', whole(used))
  redis.call('EXPIRE', KEYS[1], KEPT)
  return {refused, now, level, at, month, used}
end

-- lease in ms, requests that still run
local function renew()
  for i = 3, #ARGV do
    redis.call('ZADD', KEYS[2], whole(ms + number(ARGV[2])), ARGV[i])
  end
  redis.call('PEXPIRE', KEYS[2], 2 * number(ARGV[2]))
  return 1
end

-- What the asker heard last (month, version, spent) and what it spent alone since then, below zero where money returned.
local function purse(month, version, spent, own)
  local kept = redis.call('HMGET', KEYS[3], 'month', 'version', 'spent')
  local kept_month, kept_version = number(kept[1]), number(kept[2])
  if number(month) > kept_month or (number(month) == kept_month and number(version) > kept_version) then
    kept_month, kept_version, kept[3] = number(month), number(version), spent
  end
  local this_month = month_of_now()
  if this_month > kept_month then kept_month, kept[3] = this_month, '0' end
  redis.call('HSET', KEYS[3], 'month', whole(kept_month), 'version', whole(kept_version + 1), 'spent', kept[3] or '0')
  redis.call('EXPIRE', KEYS[3], KEPT)
  if number(month) == kept_month then redis.call('HINCRBY', KEYS[3], 'spent', own) end
  return kept_month
end

local function account(granted)
  local spent = redis.call('HGET', KEYS[3], 'spent')
  if string.sub(spent, 1, 1) == '-' then
    spent = '0'
    redis.call('HSET', KEYS[3], 'spent', spent)
  end
  local kept = redis.call('HMGET', KEYS[3], 'month', 'version')
  return {granted, now, tonumber(kept[1]), tonumber(kept[2]), spent}
end

-- amount, budget, then the arguments of `purse`
local function reserve()
  purse(ARGV[4], ARGV[5], ARGV[6], ARGV[7])
  local before = redis.call('HGET', KEYS[3], 'spent')
  redis.call('HINCRBY', KEYS[3], 'spent', ARGV[2])
  local after = redis.call('HGET', KEYS[3], 'spent')
  if string.sub(after, 1, 1) ~= '-' and less(ARGV[3], after) then
    redis.call('HSET', KEYS[3], 'spent', before)
    return account(0)
  end
  return account(1)
end

-- month of the reservation, what was spent beyond it (below zero: not spent), then the arguments of `purse`
local function settle()
  local month = purse(ARGV[4], ARGV[5], ARGV[6], ARGV[7])
  if number(ARGV[2]) == month then redis.call('HINCRBY', KEYS[3], 'spent', ARGV[3]) end
  return account(1)
end

local verbs = {admit = admit, renew = renew, reserve = reserve, settle = settle}
return verbs[ARGV[1]]()
