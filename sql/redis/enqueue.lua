-- ARGV: known epoch, known tick, the hints as `add` takes them, and 1 if all may be claimed now, else 0. How many were new.
-- Idempotent for the life of a hint. The tick grows by the number of hints, new or not.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local new = add(ARGV[3], ARGV[4] == '1')
return answer(new)
