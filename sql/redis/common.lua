-- In front of every script. KEYS[1] is what every key begins with; it has the one hash tag, so that all keys lie in one slot.
-- What holds between calls:
--   * an id is in `ids` exactly while its hint is known, and then either waits in its tenant's queue or is in `leases`;
--   * a tenant is in `ring` exactly while its queue has somebody;
--   * without `epoch` nothing here may be used: it is written last when all is filled, and removed first when it is not.
-- Keys may vanish under a wrong maxmemory-policy. Then `add` and `take` put right what they meet.

local call = redis.call
local prefix = KEYS[1]
local EPOCH, TICK, IDS, RING = prefix .. 'epoch', prefix .. 'tick', prefix .. 'ids', prefix .. 'ring'
local SERVED, LEASES, BELL, REFILL = prefix .. 'served', prefix .. 'leases', prefix .. 'bell', prefix .. 'refill'
local BELLS_MAX = 16

local function queue_of(tenant)
  return prefix .. 't:' .. tenant
end

local function tick()
  return tonumber(call('GET', TICK) or 0)
end

-- Nil if the caller knows this filling or none; else the error for it. A tick smaller than the caller's: an older copy came back.
local function refuse(known_epoch, known_tick)
  local epoch = call('GET', EPOCH)
  if not epoch then
    return redis.error_reply('EPOCH missing')
  elseif known_epoch ~= '' and known_epoch ~= epoch then
    return redis.error_reply('EPOCH other ' .. epoch .. ' ' .. string.format('%.0f', tick()))
  elseif known_epoch == epoch and tick() < tonumber(known_tick) then
    return redis.error_reply('EPOCH older')
  end
end

local function answer(result)
  return {call('GET', EPOCH), tick(), result}
end

local function not_owner(token)
  if call('GET', REFILL) ~= token then
    return redis.error_reply('LOCK lost')
  end
end

-- A tenant that comes joins at the smallest virtual time: what it did not use before gives it no credit. If it was here a moment
-- ago (`served`), it joins where it left, else whoever always has exactly one job would always be first.
local function join(tenant)
  if call('ZSCORE', RING, tenant) then
    return
  end
  local first = call('ZRANGE', RING, 0, 0, 'WITHSCORES')
  local at = 0
  if first[2] then
    at = math.max(tonumber(first[2]), tonumber(call('ZSCORE', SERVED, tenant) or 0))
  else
    call('DEL', SERVED)
  end
  call('ZADD', RING, at, tenant)
end

local function leave(tenant, at)
  if call('ZREM', RING, tenant) == 1 and at then
    call('ZADD', SERVED, at, tenant)
  end
end

-- Rings for at most so many who wait; the list stays short, and whoever takes rings for the next while something is left.
local function ring_bell(times)
  for _ = call('LLEN', BELL) + 1, math.min(times, BELLS_MAX) do
    call('LPUSH', BELL, '')
  end
end

local function parse(value)
  local score, tenant = string.match(value, '^(%d+):(.*)$')
  return score, tenant
end

-- What is not new, but may have got lost: whether it had. What is leased waits again, at its old place: whoever has it may have asked
-- the record too early.
local function put_back(id, tenant, value, score)
  if call('ZSCORE', queue_of(tenant), id) then
    return 0, 0
  end
  local was_leased = call('ZREM', LEASES, id)
  call('ZADD', queue_of(tenant), parse(value) or score, id)
  return 1 - was_leased, was_leased
end

-- `text` is JSON: [id, tenant, score, id, …]; the score is text, since Lua takes longer to write a number. How many were new, or were
-- known and had got lost. What is new is written by one command for all ids and one for each tenant: a command costs more than what it
-- does for one id.
local function add(text)
  local words = cjson.decode(text)
  local count = #words / 3
  call('INCRBY', TICK, count)
  local ids, values, queues, added = {}, {}, {}, {}
  local new, again = 0, 0
  for i = 1, count do
    ids[i] = words[3 * i - 2]
    queues[words[3 * i - 1]] = {}
  end
  local known = count > 0 and call('HMGET', IDS, unpack(ids))
  for i, id in ipairs(ids) do
    local tenant, score = words[3 * i - 1], words[3 * i]
    if known[i] then
      local lost, leased = put_back(id, tenant, known[i], score)
      new, again = new + lost, again + leased
    elseif not added[id] then
      local queue = queues[tenant]
      added[id], new = true, new + 1
      values[#values + 1], values[#values + 2] = id, score .. ':' .. tenant
      queue[#queue + 1], queue[#queue + 2] = score, id
    end
  end
  if #values > 0 then
    call('HSET', IDS, unpack(values))
  end
  for tenant, queue in pairs(queues) do
    if #queue > 0 then
      call('ZADD', queue_of(tenant), unpack(queue))
    end
    if call('EXISTS', queue_of(tenant)) == 1 then
      join(tenant)
    end
  end
  ring_bell(new + again)
  return new
end
