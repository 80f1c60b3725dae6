-- ARGV: known epoch, known tick, then at most 1,000 ids. Forgets their hints, leased or waiting; ids that are not known do no harm.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local ids = {unpack(ARGV, 3)}
if #ids > 0 then
  local values = call('HMGET', IDS, unpack(ids))
  if call('ZREM', LEASES, unpack(ids)) < #ids then -- as a rule all are leased, and no queue need be looked at
    for i, id in ipairs(ids) do
      if values[i] then
        local _, tenant = parse(values[i])
        if call('ZREM', queue_of(tenant), id) == 1 and call('EXISTS', queue_of(tenant)) == 0 then
          leave(tenant, call('ZSCORE', RING, tenant))
        end
      end
    end
  end
  call('HDEL', IDS, unpack(ids))
end
return answer(0)
