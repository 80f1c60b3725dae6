-- ARGV: known epoch, known tick, who asks, milliseconds. 1 if nobody leads or the asker does; it then leads for so long from now.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local leads = call('GET', prefix .. 'leader')
if leads and leads ~= ARGV[3] then
  return answer(0)
end
call('SET', prefix .. 'leader', ARGV[3], 'PX', ARGV[4])
return answer(1)
