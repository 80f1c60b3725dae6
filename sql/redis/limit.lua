-- KEYS: limits, all in one slot. ARGV for each: nanoseconds between two, and how many were let in since the caller's last word.
-- Answers, for each, how many nanoseconds what all callers have let in is ahead of now (GCRA: sentinel/edge/gcra.py), as text.
-- A value is `ahead:written`: so a clock that is set back does not make a limit last longer, and one that is set forward lets in one
-- burst at most. It shares no key with the dispatch, whose wiping it survives.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for i, key in ipairs(KEYS) do
  local interval_ns, count = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local ahead, written = string.match(redis.call('GET', key) or '0:0', '^(%d+):(%d+)$')
  ahead = math.max(0, ahead - math.max(0, now - written) * 1000)
  if count > 0 then
    ahead = ahead + count * interval_ns
    redis.call('SET', key, string.format('%.0f:%.0f', ahead, now), 'PX', math.ceil(ahead / 1000000) + 1000)
  end
  answers[i] = string.format('%.0f', ahead)
end
return answers
