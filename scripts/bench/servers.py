"""A PostgreSQL and a Redis of this run's own, with fsync on. Prints their URLs; ends them when standard input closes.

servers.py < PIPE
"""

import contextlib
import sys

from sentinel.chaos.servers import new_postgres, new_redis

postgres, redis = new_postgres(max_connections="300", shared_buffers="512MB", max_wal_size="4GB"), new_redis()
with contextlib.ExitStack() as stack:
    for server in (postgres, redis):
        stack.callback(server.remove)
        server.start()
    print(postgres.url, redis.url, sep="\n", flush=True)
    sys.stdin.read()
