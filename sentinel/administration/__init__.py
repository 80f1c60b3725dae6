"""What administrators do, each move once for the command line and for the admin API: one transaction, with its line in the audit.

Gives documents (JSON values without secrets) and raises what is wrong in words for people. Knows no HTTP and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from sentinel.errors import BadInput
from sentinel.records import Record
from sentinel.records.directory import AuditEntry

NAME_MAX = 64

CheckSettings = Callable[[Mapping[str, str]], None]


@attrs.frozen(eq=False)
class Administrator:
    """
    Somebody at a record, now. `actor` says who, as the audit shows it: `cli:ada`, `key:key_1a2b`.

    `check_settings` raises BadInput for what the worker would not understand in a source's settings.
    """

    record: Record
    actor: str
    now: float
    check_settings: CheckSettings = lambda _values: None

    def note(self, action: str, subject: str, tenant: str | None, **detail: Any) -> None:
        """Write into the audit, inside the transaction of what was done. No secret may be in `detail`."""
        self.record.write_audit(AuditEntry(self.now, self.actor, action, subject, tenant, detail))


def check_name(kind: str, name: str) -> None:
    """Raise BadInput unless the name can stand in a URL and in a log line as it is."""
    if not (name.isascii() and 1 <= len(name) <= NAME_MAX and name.replace("-", "").replace("_", "").replace(".", "").isalnum()):
        raise BadInput(f"The {kind} name must be 1 to {NAME_MAX} of the characters A-Z a-z 0-9 . _ -")
