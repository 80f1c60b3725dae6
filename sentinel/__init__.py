"""Sentinel: the front door and the engine room of AI agents that live in chats."""

# The rooms, from the outside in; an arrow goes down this list, never up (tests/test_layout.py):
#
#   cli/                        commands and wiring, and nothing else
#   demo.py stand_in.py supervisor.py   a round trip to look at; the platforms' stand-in; keeping processes alive
#   serve.py listening.py lane.py connection.py http1.py asgi.py hypercorn_guard.py   sockets, the fast lane, Hypercorn behind it
#   tls.py certificate.py       TLS on the lane's sockets; the pair of files, read again when it changes
#   spike/                      a load test: the curve, the plot, the verdict
#   chaos/                      faults on purpose: servers to break, a load, a fake platform, a checker
#   admin_api/ administration/   who administers, over HTTP or by commands: each move once, with its line in the audit
#   gateway.py                  routes; owns the gateway's background tasks
#   webhooks.py job_api.py job_lists.py job_request.py job_view.py status_codes.py   the two things that a gateway does
#   monitor.py metrics.py openapi.py   what it counts and says of itself: /metrics, /openapi.json
#   intake.py directory.py watch.py   commit in groups; who may do what; who waits for which job
#   admission.py usage.py shared_limits.py notices.py   who is let in, by sentinel/edge/checks.py; who is told that they were not
#   health.py spooling.py directory_copy.py   how things are; going on while the record is down
#   channels/                   PLUG: one platform's rules per file, without I/O (shared/ is what several need alike)
#   dispatch/                   which job is next, from Redis; kept in step with the record
#   records/                    PLUG: one store per file, one conformance suite; the spool
#   outbound.py bulkhead.py tenant_lookup.py   the one place that opens a connection to the outside; nobody is held up by one
#                               dead receiver, or by one tenant's name service
#   edge/ standard_webhooks.py retry.py group_commit.py   small rules, pure or nearly
#   keyring.py sealing.py        which server keys are here; what only they can read
#   settings.py logs.py stop.py processes.py name_lookup.py payload.py http.py model.py secret.py visible.py errors.py   for all
#
#   worker/ (its own top-level package) imports from here; nothing here imports it.

__version__ = "0.1.0"
