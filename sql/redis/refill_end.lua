-- ARGV: the token of `refill_begin`, the new epoch. Lets everybody in. A LOCK error as in `refill_wipe`.

local lost = not_owner(ARGV[1])
if lost then
  return lost
end
call('SETNX', TICK, 0)
call('SET', EPOCH, ARGV[2])
call('DEL', REFILL)
return answer(1)
