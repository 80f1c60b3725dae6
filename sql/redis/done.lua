-- ARGV: known epoch, known tick, milliseconds, how many of the jobs were claimed, then the ids of those and of those that were not to be
-- had; at most 1,000. What waits was offered again meanwhile, and stays; ids that are not known do no harm. Of what is leased, the hint of
-- a job that belongs to no chat is forgotten. One that was claimed in a chat stays leased for so long, until its end is told: others of
-- the chat wait behind it. If one was not to be had, what is known of its chat is wrong and is forgotten: the record will be asked.

local refused = refuse(ARGV[1], ARGV[2])
if refused then
  return refused
end
local until_ms, claimed, ids = now_ms() + ARGV[3], tonumber(ARGV[4]), {unpack(ARGV, 5)}
local gone, running = {}, {}
local values = #ids > 0 and call('HMGET', IDS, unpack(ids))
for i, expiry in ipairs(#ids > 0 and call('ZMSCORE', LEASES, unpack(ids)) or {}) do
  if expiry then
    local _, tenant, chat = parse(values[i] or '')
    if chat ~= '' and i <= claimed then
      running[#running + 1], running[#running + 2] = until_ms, ids[i]
    else
      gone[#gone + 1] = ids[i]
      if chat ~= '' then
        forget_line(chat, tenant)
      end
    end
  end
end
if #running > 0 then
  call('ZADD', LEASES, unpack(running))
end
if #gone > 0 then
  call('ZREM', LEASES, unpack(gone))
  call('HDEL', IDS, unpack(gone))
end
return answer(0)
