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

-- The purse's fields: month; era (when it began, by this clock) and version (how often it was told); spent by calls
-- that were settled, and base, what it began with of that; held for calls under way. For each of these ":call" has its
-- end and its amount. Of what was held when a purse was lost only the sum is known: unnamed, unnamed_base (as base),
-- unnamed_ends. Nothing ends before `ends`; 0 is never.
-- ARGV of both verbs: lease, then what the asker heard last (era, month, version, spent, held) and what happened there
-- alone since then: the sum of costs, how many calls were settled; their names and amounts come last, with those of the
-- calls for which money was set aside there.
local LEASE, MINE, SETTLED = number(ARGV[2]), ARGV[8], number(ARGV[9])

local function get(field)
  return redis.call('HGET', KEYS[3], field) or '0'
end

local function add(field, amount)
  redis.call('HINCRBY', KEYS[3], field, amount)
end

local function take(field, amount)
  if amount ~= '0' then add(field, '-' .. amount) end
end

local function ends_at(moment)
  local first = number(get('ends'))
  if first == 0 or moment < first then redis.call('HSET', KEYS[3], 'ends', whole(moment)) end
end

local function hold(call, amount)
  if redis.call('HSETNX', KEYS[3], ':' .. call, whole(now + LEASE) .. ' ' .. amount) == 0 then return end
  add('held', amount)
  ends_at(now + LEASE)
end

local function release(call, amount)
  local kept = redis.call('HGET', KEYS[3], ':' .. call)
  if kept then
    redis.call('HDEL', KEYS[3], ':' .. call)
    take('held', string.match(kept, ' (%d+)$'))
    return
  end
  local unnamed = get('unnamed')
  if less(unnamed, amount) then amount = unnamed end
  take('unnamed', amount)
  take('held', amount)
end

local function end_leases()
  local first = number(get('ends'))
  if first == 0 or now < first then return end
  first = 0
  local function later(moment)
    if first == 0 or moment < first then first = moment end
  end
  local fields = redis.call('HGETALL', KEYS[3])
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 1) == ':' then
      local ends, amount = string.match(fields[i + 1], '^(%d+) (%d+)$')
      if now < number(ends) then later(number(ends))
      else
        redis.call('HDEL', KEYS[3], fields[i])
        take('held', amount)
      end
    end
  end
  local unnamed, ends = get('unnamed'), number(get('unnamed_ends'))
  if unnamed ~= '0' and now < ends then later(ends)
  elseif unnamed ~= '0' then
    take('held', unnamed)
    redis.call('HSET', KEYS[3], 'unnamed', '0')
  end
  redis.call('HSET', KEYS[3], 'ends', whole(first))
end

local function begin(month, version, spent, held)
  local ends = whole(now + LEASE)
  redis.call('DEL', KEYS[3])
  -- Later than what it replaces, also by a clock that was set back.
  local era = math.max(now, number(ARGV[3]) + 1)
  redis.call('HSET', KEYS[3], 'month', whole(month), 'era', whole(era), 'version', whole(version))
  redis.call('HSET', KEYS[3], 'spent', spent, 'base', spent, 'held', held)
  redis.call('HSET', KEYS[3], 'unnamed', held, 'unnamed_base', held, 'unnamed_ends', ends)
  redis.call('HSET', KEYS[3], 'ends', held == '0' and '0' or ends)
end

-- One who heard of the purse that was lost later than the one whose memory this one began with: more was spent, and
-- other calls were under way. A ledger's word is older than any memory, but may know of more.
local function remember(era, version, spent, held)
  local base_era, base_version = number(get('base_era')), number(get('base_version'))
  if era < base_era or (era == base_era and version <= base_version) then return end
  redis.call('HSET', KEYS[3], 'base_era', whole(era), 'base_version', whole(version))
  local base, unnamed_base, ends = get('base'), get('unnamed_base'), number(get('unnamed_ends'))
  if less(base, spent) then
    add('spent', spent)
    take('spent', base)
    redis.call('HSET', KEYS[3], 'base', spent)
  end
  if now >= ends then return end
  redis.call('HSET', KEYS[3], 'unnamed_base', held)
  for _, field in ipairs({'unnamed', 'held'}) do
    add(field, held)
    take(field, unnamed_base)
  end
  local unnamed = get('unnamed')
  if string.sub(unnamed, 1, 1) == '-' then
    -- Calls gave back more than was theirs, since they were settled.
    add('held', string.sub(unnamed, 2))
    redis.call('HSET', KEYS[3], 'unnamed', '0')
  end
  ends_at(ends)
end

-- Makes the purse that of this month and of all that is known. False: nothing is.
-- The month that a ledger told of, and what was spent in it; `rest` is the first of the names that come last.
local function open(told_month, told_spent, rest)
  local kept = redis.call('HMGET', KEYS[3], 'month', 'era', 'version')
  local month, era, version = number(kept[1]), number(kept[2]), number(kept[3])
  if era == 0 then month, version = 0, 0 end -- of a release that did not know what of it was held
  local heard_era, heard_month, heard_version = number(ARGV[3]), number(ARGV[4]), number(ARGV[5])
  local this_month = month_of_now()
  local later = heard_era > era or (heard_era == era and heard_version > version)
  if heard_month >= this_month and (heard_month > month or (heard_month == month and later)) then
    month, version = heard_month, heard_version
    begin(month, version, ARGV[6], ARGV[7])
    redis.call('HSET', KEYS[3], 'base_era', whole(heard_era), 'base_version', whole(heard_version))
  elseif month > 0 and heard_month == month and heard_era < era then
    remember(heard_era, heard_version, ARGV[6], ARGV[7])
  elseif month == 0 and told_month == this_month then
    month = told_month
    begin(month, 0, told_spent, '0')
  end
  if month == 0 then return false end
  if this_month > month then
    month = this_month
    begin(month, version, '0', '0')
  end
  add('version', 1)
  redis.call('EXPIRE', KEYS[3], KEPT)
  end_leases()
  if heard_month ~= month then return true end
  add('spent', MINE)
  for i = rest, #ARGV, 2 do
    if i < rest + 2 * SETTLED then release(ARGV[i], ARGV[i + 1])
    else hold(ARGV[i], ARGV[i + 1])
    end
  end
  return true
end

local function account(granted)
  local kept = redis.call('HMGET', KEYS[3], 'month', 'era', 'version', 'spent', 'held')
  return {granted, now, number(kept[1]), number(kept[2]), number(kept[3]), kept[4], kept[5]}
end

-- from 10 on: call, amount, budget, the month that a ledger told of (0: none), what was spent in it
local function reserve()
  if not open(number(ARGV[13]), ARGV[14], 15) then return {2, now, month_of_now()} end
  local held = get('held')
  add('held', get('spent'))
  add('held', ARGV[11])
  local sum = get('held')
  redis.call('HSET', KEYS[3], 'held', held)
  if less(ARGV[12], sum) then return account(0) end
  hold(ARGV[10], ARGV[11])
  return account(1)
end

-- from 10 on: call, amount, month, cost
local function settle()
  -- What was lost with its month is in the ledger.
  if not open(0, '0', 14) then return {2, now, month_of_now()} end
  if number(ARGV[12]) == number(get('month')) then
    release(ARGV[10], ARGV[11])
    add('spent', ARGV[13])
  end
  return account(1)
end

local verbs = {admit = admit, renew = renew, reserve = reserve, settle = settle}
return verbs[ARGV[1]]()
