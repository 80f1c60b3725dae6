-- ARGV: known epoch, known tick, then at most 1,000 ids of jobs that are over. Forgets their hints, wherever they are, and has the next of
-- each chat wait in its tenant's queue. The ids of those of whose chat nobody else is known here.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local ids = {unpack(ARGV, 3)}
local tenants, chats, alone, nexts, before, queues = {}, {}, {}, {}, {}, {}
local leased = #ids > 0 and call('ZMSCORE', LEASES, unpack(ids))
for i, value in ipairs(#ids > 0 and call('HMGET', IDS, unpack(ids)) or {}) do
  local _, tenant, chat = parse(value or '')
  tenants[i], chats[i] = tenant, chat
  if value and not leased[i] then
    unqueue(tenant, {ids[i]})
  end
  if chat ~= '' then
    call('ZREM', line_of(chat), ids[i])
  end
end
if #ids > 0 then
  call('ZREM', LEASES, unpack(ids))
  call('HDEL', IDS, unpack(ids))
end

for i, id in ipairs(ids) do
  local first = chats[i] ~= '' and call('ZRANGE', line_of(chats[i]), 0, 0)[1]
  if first then
    nexts[#nexts + 1], before[#before + 1] = first, i
  else
    alone[#alone + 1] = id
  end
end
for n, value in ipairs(#nexts > 0 and call('HMGET', IDS, unpack(nexts)) or {}) do
  local i = before[n]
  if value then
    local queue = queues[tenants[i]] or {}
    queues[tenants[i]], queue[#queue + 1], queue[#queue + 2] = queue, parse(value), nexts[n]
  else  -- a key has vanished
    forget_line(chats[i], tenants[i])
    alone[#alone + 1] = ids[i]
  end
end
if #nexts > 0 then
  call('ZREM', LEASES, unpack(nexts))  -- whoever has one may have looked too early
end
for tenant, queue in pairs(queues) do
  call('ZADD', queue_of(tenant), unpack(queue))
  join(tenant)
end
ring_bell(#nexts)
return answer(alone)
