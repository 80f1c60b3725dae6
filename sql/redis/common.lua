-- In front of every script. KEYS[1] is what every key begins with; it has the one hash tag, so that all keys lie in one slot.
-- What holds between calls:
--   * an id is in `ids` exactly while its hint is known, and then waits in its tenant's queue, or is in `leases`, or waits behind another
--     of its chat; of a chat's hints, which are all in the chat's set, one at least does not wait behind another;
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

local function line_of(chat)
  return prefix .. 'c:' .. chat
end

local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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
  local score, chat, tenant = string.match(value, '^(%d+):([%x-]*):(.*)$')
  if not score then  -- written before there were chats here
    score, tenant = string.match(value, '^(%d+):(.*)$')
  end
  return score, tenant, chat or ''
end

-- Has a hint that is known wait in its tenant's queue, at its old place: how many did not, and how many of them had got lost. What is
-- leased waits again: whoever has it may have asked the record too early. What waited behind another of its chat had not got lost.
local function put_back(id, tenant, value, score)
  if call('ZSCORE', queue_of(tenant), id) then
    return 0, 0
  end
  local old_score, _, chat = parse(value)
  local was_leased = call('ZREM', LEASES, id)
  call('ZADD', queue_of(tenant), old_score or score, id)
  return 1, chat == '' and 1 - was_leased or 0
end

-- Puts a hint into the line of its chat: whether it is the only one there. The line is in the order in which Redis was told, which is
-- that of the record but for chance; priorities do not count, and when they were received may be the same for several.
local function line_up(id, chat, place)
  call('ZADD', line_of(chat), place, id)
  return call('ZCARD', line_of(chat)) == 1
end

local function unqueue(tenant, ids)
  if call('ZREM', queue_of(tenant), unpack(ids)) > 0 and call('EXISTS', queue_of(tenant)) == 0 then
    leave(tenant, call('ZSCORE', RING, tenant))
  end
end

-- Forgets the hints of a chat, a thousand at a time.
local function forget_line(chat, tenant)
  while true do
    local popped, ids = call('ZPOPMIN', line_of(chat), 1000), {}
    for i = 1, #popped, 2 do
      ids[#ids + 1] = popped[i]
    end
    if #ids == 0 then
      return
    end
    unqueue(tenant, ids)
    call('ZREM', LEASES, unpack(ids))
    call('HDEL', IDS, unpack(ids))
  end
end

-- `text` is JSON: [id, tenant, score, chat, id, …]; the score is text, since Lua takes longer to write a number. `ready` says that the
-- record would let each be claimed; else it may have to wait behind others of its chat, and does. How many were new, or were known and
-- had got lost. What is new is written by one command for all ids and one for each tenant: a command costs more than what it does for
-- one id.
local function add(text, ready)
  local words = cjson.decode(text)
  local count = #words / 4
  local place = call('INCRBY', TICK, count) - count
  local ids, values, queues, added = {}, {}, {}, {}
  local new, rings = 0, 0
  for i = 1, count do
    ids[i] = words[4 * i - 3]
    queues[words[4 * i - 2]] = {}
  end
  local known = count > 0 and call('HMGET', IDS, unpack(ids))
  for i, id in ipairs(ids) do
    local tenant, score, chat = words[4 * i - 2], words[4 * i - 1], words[4 * i]
    if known[i] then
      local back, lost = put_back(id, tenant, known[i], score)
      new, rings = new + lost, rings + back
    elseif not added[id] then
      added[id], new = true, new + 1
      values[#values + 1], values[#values + 2] = id, score .. ':' .. chat .. ':' .. tenant
      if chat == '' or line_up(id, chat, place + i) or ready then
        local queue = queues[tenant]
        queue[#queue + 1], queue[#queue + 2], rings = score, id, rings + 1
      end
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
  ring_bell(rings)
  return new
end
