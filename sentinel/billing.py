"""The billing webhook: a signed source of the kind `billing` sets subscriptions. Nothing of it ever becomes a job."""

from __future__ import annotations

import attrs

from sentinel import payload
from sentinel.administration import Administrator
from sentinel.administration.subscriptions import document, put
from sentinel.edge.billing import parse_billing
from sentinel.errors import Forbidden
from sentinel.http import Request, Response, json_response
from sentinel.logs import log
from sentinel.model import DEFAULT_TENANT, Source
from sentinel.records import Store


@attrs.frozen(eq=False)
class Billing:
    """Takes what a biller says. Only sources of the tenant `default`, the operator's own, may speak for others."""

    store: Store

    async def receive(self, request: Request, source: Source, now: float) -> Response:
        """
        200 once the subscription is set, or is left alone because something newer is known.

        Raises BadInput or NotFound for what cannot be set, Unavailable when it has to be sent again.
        """
        if source.tenant != DEFAULT_TENANT:
            raise Forbidden("Only a source of the tenant default may set subscriptions.")
        subscription = parse_billing(payload.decode_json(request.body), now)
        admin = Administrator(self.store.record, f"billing:{source.name}", now)
        applied = await self.store.call(put, admin, subscription)
        log.info("subscription.told", tenant=subscription.tenant, status=subscription.status, applied=applied)
        return json_response(200, {"applied": applied, "subscription": document(subscription, now)})
