-- ARGV: the token of `refill_begin`, milliseconds of the lock, then keys to remove. A LOCK error if the lock is another's by now.

local lost = not_owner(ARGV[1])
if lost then
  return lost
end
call('PEXPIRE', REFILL, ARGV[2])
for i = 3, #ARGV do
  if ARGV[i] ~= REFILL then
    call('UNLINK', ARGV[i])
  end
end
return 1
