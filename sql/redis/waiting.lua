-- ARGV: known epoch, known tick. How many hints wait, behind others of their chats too. Changes nothing.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local leased = call('ZCOUNT', LEASES, '(' .. string.format('%.0f', now_ms()), '+inf')
return answer(math.max(0, call('HLEN', IDS) - leased))
