-- ARGV: known epoch, known tick, then the hints as `add` takes them. How many were new.
-- Idempotent for the life of a hint. The tick grows by the number of hints, new or not.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local new = add(ARGV[3])
return answer(new)
