-- KEYS[1] is what every key begins with; it has the one hash tag, so that all keys lie in one slot. ARGV[1] is JSON: of each limit its
-- key, nanoseconds between two, and how many were let in since the caller's last word (less than none: one that was granted and did not
-- come). Whoever wants one more adds how many nanoseconds may be ahead, and that it is wanted only if less than so many are left.
-- Answers, for each, how many nanoseconds what all callers have let in is ahead of now (GCRA: sentinel/edge/gcra.py), with a plus if one
-- was granted, which is in that; spaces between.
-- A value is `ahead:written`: so a clock that is set back does not make a limit last longer, and one that is set forward lets in one
-- burst at most. It shares no key with the dispatch, whose wiping it survives.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for i, limit in ipairs(cjson.decode(ARGV[1])) do
  local key, interval_ns, count, burst_ns, wanted_ns = KEYS[1] .. limit[1], limit[2], limit[3], limit[4], limit[5]
  local ahead, written = string.match(redis.call('GET', key) or '0:0', '^(%d+):(%d+)$')
  ahead = math.max(0, ahead - math.max(0, now - written) * 1000)
  ahead = math.max(0, ahead + count * interval_ns)
  local granted = wanted_ns and burst_ns - ahead >= interval_ns and burst_ns - ahead < wanted_ns
  if granted then ahead = ahead + interval_ns end
  if granted or count ~= 0 then
    redis.call('SET', key, string.format('%.0f:%.0f', ahead, now), 'PX', math.ceil(ahead / 1000000) + 1000)
  end
  answers[i] = string.format(granted and '%.0f+' or '%.0f', ahead)
end
return table.concat(answers, ' ')
