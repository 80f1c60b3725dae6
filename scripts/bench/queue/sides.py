"""Who is measured, on what, and how to tell that nothing is left."""

from __future__ import annotations

import attrs

_STREAM = (  # what a consumer group has not read, and what it has not acknowledged
    "local ok, g = pcall(redis.call, 'XINFO', 'GROUPS', KEYS[1]) if not ok or not g[1] then return 0 end "
    "local f = {} for i = 1, #g[1], 2 do f[g[1][i]] = g[1][i + 1] end return f['pending'] + (f['lag'] or 0)"
)

_QUEUE = "SELECT count(*) FROM queue"
_STREAQ = "return redis.call('XLEN', 'streaq:default:queues:normal')"


@attrs.frozen
class Side:
    """`left` counts the jobs that are not acknowledged: a query, or a script for Redis. `settings` is for the reader."""

    name: str
    store: str  # postgres, redis, or both
    jobs: int
    file: str
    options: tuple[str, ...]
    left: str
    settings: str
    python: str = "peers"  # which environment: peers, saq, or sentinel


SIDES = (
    Side(
        "procrastinate", "postgres", 4_000, "peer_procrastinate.py", (),
        "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')",
        "concurrency 30, pool of 30, delete_jobs=always, uvloop; batch_defer by 1,000",
    ),
    Side(
        "PgQueuer, psycopg", "postgres", 20_000, "peer_pgqueuer.py", ("psycopg",), "SELECT count(*) FROM pgqueuer",
        "5 queue managers, batch_size 250, `pgq autovac` settings, durable, uvloop; enqueue by 1,000",
    ),
    Side(
        "PgQueuer, asyncpg", "postgres", 20_000, "peer_pgqueuer.py", ("asyncpg",), "SELECT count(*) FROM pgqueuer",
        "batch_size 500, `pgq autovac` settings, durable, uvloop; enqueue by 1,000",
    ),
    Side("Sentinel", "postgres", 20_000, "with_sentinel.py", ("-", "0", "slots"), _QUEUE,
         "claims of 500, 100 slots, endings that come together in one commit; accept by 500", "sentinel"),
    Side("Sentinel, 1,000 chats", "postgres", 20_000, "with_sentinel.py", ("-", "1000", "slots"), _QUEUE,
         "the same, every job in a conversation", "sentinel"),
    Side("Sentinel, a task per job", "postgres", 20_000, "with_sentinel.py", ("-", "0", "tasks"), _QUEUE,
         "as `worker/jobs.py` has it: a task for every job, which waits for its ending's commit", "sentinel"),
    Side(
        "SAQ", "redis", 4_000, "peer_saq.py", (), "return redis.call('ZCARD', 'saq:default:incomplete')",
        "concurrency 32, ttl -1 (no result kept), uvloop, hiredis; no bulk call: 32 enqueue calls at once", "saq",
    ),
    Side(
        "taskiq, no results", "redis", 4_000, "peer_taskiq.py", ("none",), _STREAM.replace("KEYS[1]", "'taskiq'"),
        "stream broker, xread_count 100, max_async_tasks 100, uvloop; no bulk call: 32 enqueue calls at once",
    ),
    Side(
        "taskiq, results", "redis", 4_000, "peer_taskiq.py", ("results",), _STREAM.replace("KEYS[1]", "'taskiq'"),
        "the same, results kept 300 s",
    ),
    Side(
        "streaQ, asyncio", "redis", 4_000, "peer_streaq.py", ("asyncio",), _STREAQ,
        "concurrency 32, prefetch 32, ttl 0 (no result kept), coredis optimized, uvloop; enqueue_many by 1,000",
    ),
    Side(
        "streaQ, trio", "redis", 4_000, "peer_streaq.py", ("trio",), _STREAQ,
        "the same on trio",
    ),
    Side("Sentinel", "both", 20_000, "with_sentinel.py", ("REDIS", "0", "slots"), _QUEUE,
         "as on PostgreSQL, ids by way of Redis", "sentinel"),
    Side("Sentinel, 1,000 chats", "both", 20_000, "with_sentinel.py", ("REDIS", "1000", "slots"), _QUEUE,
         "the same, every job in a conversation", "sentinel"),
)  # fmt: skip
