-- ARGV: the token of `refill_begin`. Gives the lock back if it is still the caller's; the epoch stays away, so the next one refills.

if call('GET', REFILL) == ARGV[1] then
  call('DEL', REFILL)
end
return 1
