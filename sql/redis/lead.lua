-- ARGV: known epoch, known tick, who asks, milliseconds. 1 if nobody leads or the asker does; it then leads for so long from now.
-- Writes in any case: that shows whether Redis takes writes.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local leads = call('GET', prefix .. 'leader')
if leads and leads ~= ARGV[3] then
  call('SET', prefix .. 'leader', leads, 'KEEPTTL')
  return answer(0)
end
call('SET', prefix .. 'leader', ARGV[3], 'PX', ARGV[4])
return answer(1)
