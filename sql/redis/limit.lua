-- KEYS[1] is what every key begins with; it has the one hash tag, so that all keys lie in one slot. ARGV[1] is JSON: of each limit its
-- key, nanoseconds between two, and how many were let in since the caller's last word.
-- Answers, for each, how many nanoseconds what all callers have let in is ahead of now (GCRA: sentinel/edge/gcra.py), spaces between.
-- A value is `ahead:written`: so a clock that is set back does not make a limit last longer, and one that is set forward lets in one
-- burst at most. It shares no key with the dispatch, whose wiping it survives.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for i, limit in ipairs(cjson.decode(ARGV[1])) do
  local key, interval_ns, count = KEYS[1] .. limit[1], limit[2], limit[3]
  local ahead, written = string.match(redis.call('GET', key) or '0:0', '^(%d+):(%d+)$')
  ahead = math.max(0, ahead - math.max(0, now - written) * 1000)
  if count > 0 then
    ahead = ahead + count * interval_ns
    redis.call('SET', key, string.format('%.0f:%.0f', ahead, now), 'PX', math.ceil(ahead / 1000000) + 1000)
  end
  answers[i] = string.format('%.0f', ahead)
end
return table.concat(answers, ' ')
