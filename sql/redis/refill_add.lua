-- ARGV: the token of `refill_begin`, milliseconds of the lock, then the hints as `add` takes them. A LOCK error as in `refill_wipe`.

local lost = not_owner(ARGV[1])
if lost then
  return lost
end
call('PEXPIRE', REFILL, ARGV[2])
return add(ARGV[3], true)
