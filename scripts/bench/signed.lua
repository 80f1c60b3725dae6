-- wrk: POST the signed webhooks of requests.py, each once, in order.
--   wrk -t1 -c500 -d10s --latency -s signed.lua http://HOST:PORT -- requests.tsv /webhooks/whatsapp/bench
local requests, at = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local signature, body = line:match("^(%S+)\t(.*)$")
    requests[#requests + 1] = wrk.format("POST", args[2],
      {["Content-Type"] = "application/json", ["X-Hub-Signature-256"] = signature}, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  io.write(string.format("%.0f %.2f %.2f %.2f %d %d\n", summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
