-- ARGV: known epoch, a token that nobody else has, milliseconds of the lock. 1 if the caller may refill now; nobody else may then,
-- and the epoch is gone. 0 if somebody is at it. An EPOCH error if there is a filling that the caller did not know yet.

local epoch = call('GET', EPOCH)
if epoch and epoch ~= ARGV[1] then
  return redis.error_reply('EPOCH other ' .. epoch .. ' ' .. string.format('%.0f', tick()))
end
if not call('SET', REFILL, ARGV[2], 'NX', 'PX', ARGV[3]) then
  return 0
end
call('DEL', EPOCH)
return 1
