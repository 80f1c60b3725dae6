-- ARGV: known epoch, known tick, then at most 1,000 ids. Forgets their hints that are leased. What waits was offered again meanwhile, and
-- stays; ids that are not known do no harm.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local ids = {unpack(ARGV, 3)}
local leased = {}
for i, expiry in ipairs(#ids > 0 and call('ZMSCORE', LEASES, unpack(ids)) or {}) do
  if expiry then
    leased[#leased + 1] = ids[i]
  end
end
if #leased > 0 then
  call('ZREM', LEASES, unpack(leased))
  call('HDEL', IDS, unpack(leased))
end
return answer(0)
