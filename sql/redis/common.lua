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
local STEP = 8796093022208 -- 2^43: a score is priority * STEP + tick, exact below 2^53, so below priority 1024

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

-- `text` is JSON: [[id, tenant, priority], …]. How many were new, or were known and had got lost. What is leased waits again, at its old
-- place: whoever has it may have asked the record too early.
local function add(text)
  local hints = cjson.decode(text)
  local order = call('INCRBY', TICK, #hints) - #hints
  local new, again, tenants = 0, 0, {}
  for _, hint in ipairs(hints) do
    local id, tenant, priority = hint[1], hint[2], hint[3]
    order = order + 1
    local score = string.format('%.0f', priority * STEP + order)
    if call('HSETNX', IDS, id, score .. ':' .. tenant) == 1 then
      call('ZADD', queue_of(tenant), score, id)
      new = new + 1
    elseif not call('ZSCORE', queue_of(tenant), id) then
      if call('ZREM', LEASES, id) == 1 then
        again = again + 1
      else
        new = new + 1
      end
      call('ZADD', queue_of(tenant), parse(call('HGET', IDS, id)) or score, id)
    end
    tenants[tenant] = true
  end
  for tenant in pairs(tenants) do
    if call('EXISTS', queue_of(tenant)) == 1 then
      join(tenant)
    end
  end
  ring_bell(new + again)
  return new
end
