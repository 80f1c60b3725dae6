-- ARGV: known epoch, known tick, count, milliseconds of the lease. The ids taken, in the order in which they should be looked at.
-- First returns the leases that have expired, by Redis' own clock. Then plans whose turn it is, and pops each tenant's share at once:
-- the commands are as many as the tenants served, not as the ids.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local count, lease_ms = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()

for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 1000)) do
  local value = call('HGET', IDS, id)
  call('ZREM', LEASES, id)
  if value then
    local score, tenant = parse(value)
    call('ZADD', queue_of(tenant), score, id)
    join(tenant)
  end
end

-- Always the tenant with the smallest virtual time; being served makes it 1 more. `again` are those served before, in order by
-- themselves because nobody is served before somebody smaller; so the next is at the head of one of two lists.
local ring = call('ZRANGE', RING, 0, count - 1, 'WITHSCORES')
local turns, touched, again = {}, {}, {}
local fresh, back = 1, 1
while #turns < count do
  local tenant
  if ring[fresh] and not (again[back] and again[back].at < tonumber(ring[fresh + 1])) then
    tenant = {name = ring[fresh], at = tonumber(ring[fresh + 1]), left = call('ZCARD', queue_of(ring[fresh])), share = 0}
    fresh = fresh + 2
    touched[#touched + 1] = tenant
  elseif again[back] then
    tenant = again[back]
    back = back + 1
  else
    break
  end
  if tenant.left > 0 then
    tenant.left, tenant.share, tenant.at = tenant.left - 1, tenant.share + 1, tenant.at + 1
    turns[#turns + 1] = tenant
    if tenant.left > 0 then
      again[#again + 1] = tenant
    end
  end
end

for _, tenant in ipairs(touched) do
  if tenant.share > 0 then
    tenant.popped, tenant.next = call('ZPOPMIN', queue_of(tenant.name), tenant.share), 1
  end
  if tenant.left > 0 then
    call('ZADD', RING, tenant.at, tenant.name)
  else
    leave(tenant.name, tenant.at)
  end
end

local ids, leases = {}, {}
for _, tenant in ipairs(turns) do
  local id = tenant.popped[tenant.next]
  tenant.next = tenant.next + 2
  ids[#ids + 1] = id
  leases[#leases + 1] = now + lease_ms
  leases[#leases + 1] = id
  if #leases == 2000 then
    call('ZADD', LEASES, unpack(leases))
    leases = {}
  end
end
if #leases > 0 then
  call('ZADD', LEASES, unpack(leases))
end

local first = call('ZRANGE', RING, 0, 0, 'WITHSCORES')
if first[2] then
  call('ZREMRANGEBYSCORE', SERVED, '-inf', first[2])
  ring_bell(1)
else
  call('DEL', BELL)
end
return answer(ids)
