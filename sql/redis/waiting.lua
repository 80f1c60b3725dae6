-- ARGV: known epoch, known tick. How many hints `take` could hand out now. Changes nothing.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leased = call('ZCOUNT', LEASES, '(' .. string.format('%.0f', now), '+inf')
return answer(math.max(0, call('HLEN', IDS) - leased))
