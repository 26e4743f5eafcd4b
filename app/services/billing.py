"""What customers pay for: webhooks in, plans out; checkouts, changes and cancellations on request.

The state of a plan changes by webhooks alone. What a customer orders here takes effect when the payment provider says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from attrs import define, evolve, field

from domain import billing
from domain.billing import Account, BillingEvent, Subscription
from domain.errors import InvalidRequest, NotFound
from domain.notices import ON_THE_BILL, Delivery, Notice, deliveries
from domain.plans import Plan
from domain.project import Project
from domain.value import value
from ports.billing import BillingBook, BillingGateway, BillingTurn, Order
from ports.notify import Chores

log = logging.getLogger(__name__)

EVENTS_SHOWN = 20
DUNNING, DUNNING_EVERY = "dunning", 60.0


@value
class Standing:
    """A project's bill as it may be shown."""

    account: Account
    subscriptions: Sequence[Subscription]
    events: Sequence[BillingEvent]


@define
class Billing:
    """`team` are the digests of the operator's channels, `grace` seconds of late payment. `clock` is wall-clock seconds.

    `wake` is called when there is something to deliver.
    """

    gateway: BillingGateway
    book: BillingBook
    chores: Chores
    plans: Mapping[str, Plan]
    team: Sequence[str]
    grace: float
    clock: Callable[[], float]
    wake: Callable[[], None]
    _dunned: set[str] = field(factory=set)
    """What this process has told of those who are late now."""

    # --- what the payment provider tells ----------------------------------------------------------

    async def take(self, payload: bytes, signature: str) -> bool:
        """Applies an event for good, once; False if it was applied before.

        Raises InvalidRequest for a body that is not the payment provider's, Unavailable if it cannot be kept now.
        """
        event = self.gateway.read_event(payload, signature, self.clock())
        if event.type in billing.DISPUTES:
            event = await self.gateway.completed(event)
        async with self.book.turn() as turn:
            logged = await turn.log(event, payload, self.clock())
            doubted = await self._taken(turn, event) if logged is None else logged
            doubtful = doubted is not None and await self._apply(turn, doubted)
        if logged is not None:
            log.info("a billing event was applied", extra={"event": event.id, "type": event.type})
            self.wake()
        if doubted is not None and doubtful:
            # Before the answer: if all this ends here, the event comes again, and the question with it.
            await self._ask(doubted)
        return logged is not None

    async def replay(self, event_id: str) -> BillingEvent:
        """Reads a logged event anew, with today's prices, and tells its subscription's history again.

        Nobody is told twice. Raises NotFound for an event that was never logged.
        """
        body = await self.book.body(event_id)
        if body is None:
            raise NotFound(f"No event has the id {event_id}.")
        event = self.gateway.read_logged(body)
        async with self.book.turn() as turn:
            await turn.restate(event)
            doubtful = await self._apply(turn, event)
        self.wake()
        if doubtful:
            await self._ask(event)
        return event

    async def _taken(self, turn: BillingTurn, event: BillingEvent) -> BillingEvent | None:
        """The same event as it was taken before, if nobody has been asked how things stood then."""
        asked_of = event.type in (*billing.CHECKOUTS, *billing.SUBSCRIPTIONS)
        if not asked_of or not event.subscription:
            return None
        history = await turn.history(event.subscription)
        return next((one for one in history if one.id == event.id and not one.current), None)

    async def _ask(self, event: BillingEvent) -> None:
        """Order is in doubt, or the event says too little: how things stand now settles it."""
        current = await self.gateway.completed(event)
        if not current.current:
            return
        async with self.book.turn() as turn:
            await turn.restate(current)
            await self._apply(turn, current)
        self.wake()

    async def _apply(self, turn: BillingTurn, event: BillingEvent) -> bool:
        """Whether somebody should be asked how things really stand."""
        await self._post(turn, billing.dispute_notices(event))
        if event.type not in billing.HANDLED:
            return False
        if not event.subscription:
            project = await turn.project_of(event.customer) if event.customer else ""
            await self._post(turn, billing.bill_notices(event, project))
            return False
        history = await turn.history(event.subscription)
        change = billing.tell(event.subscription, history, self.grace)
        await turn.keep(change.subscription)
        told = change.notices
        if change.subscription.project and not await self._settle(turn, change.subscription):
            told = tuple(one for one in told if one.kind in ON_THE_BILL)
        await self._post(turn, told, settled=event.subscription)
        # Its metadata may name another project than before: nobody pays for the former one any more.
        for former in sorted({one.project for one in history} - {"", change.subscription.project}):
            await self._settle(turn, Subscription("", project=former))
        unknown = event.type in billing.CHECKOUTS and not change.subscription.plan
        return not event.current and (unknown or billing.in_doubt(event, history))

    async def _settle(self, turn: BillingTurn, told: Subscription) -> bool:
        """Puts the project on what it pays for, if that is not what billing put it on last.

        False if that cannot be, for want of such a project.
        """
        project = told.project
        account = await turn.account(project) or Account(project)
        plan = billing.plan_of(
            await turn.of_project(project), self.plans, self.clock(), self.grace
        )
        if plan != account.plan:
            if not await turn.set_plan(project, plan):
                log.warning("somebody pays for a project that is not there: %s", project)
                return False
            log.info("a project's plan changed", extra={"project": project, "plan": plan})
        await turn.keep_account(
            evolve(
                account,
                plan=plan,
                customer=told.customer or account.customer,
                email=told.email or account.email,
            )
        )
        return True

    async def _post(
        self, turn: BillingTurn, notices: Sequence[Notice], *, settled: str = ""
    ) -> None:
        posted: list[Delivery] = []
        for notice in notices:
            contact = await turn.contact(notice.project)
            posted += deliveries(notice, contact, self.team, self.clock(), settled)
        if posted or settled:
            await turn.post(posted, settled)

    # --- what time brings --------------------------------------------------------------------------

    async def dun(self) -> None:
        """Those whose grace is about to end are told, those whose has ended fall back to the free plan."""
        now = self.clock()
        if not await self.chores.mine(DUNNING, now, DUNNING_EVERY):
            return
        failing = await self.book.failing()
        due = [
            (one, notice) for one in failing for notice in billing.dunning(one, now, self.grace)
        ]
        self._dunned &= {notice.id for _, notice in due}
        for late, notice in due:
            if notice.id not in self._dunned:
                await self._dun(late)
                self._dunned.add(notice.id)

    async def _dun(self, late: Subscription) -> None:
        async with self.book.turn() as turn:
            for one in await turn.of_project(late.project):
                # As it stands now: a payment may have come while this waited for its turn.
                notices = billing.dunning(one, self.clock(), self.grace)
                if one.id == late.id and notices:
                    await self._post(turn, notices)
                    await self._settle(turn, one)
        self.wake()

    # --- what customers order ----------------------------------------------------------------------

    async def checkout(self, project: Project, plan: str, click: str) -> str:
        """The URL at which the project's plan can be paid. `click` is unique to the wish, not to the attempt."""
        self._check_open()
        self._check_sold(plan)
        if self._paying(await self.book.subscriptions(project.id)) is not None:
            raise InvalidRequest(
                "The project has a subscription already; change its plan instead.", param="plan"
            )
        account = await self.book.account(project.id) or Account(project.id)
        return await self.gateway.checkout(
            Order(project.id, plan, click, account.customer, account.email)
        )

    async def portal(self, project: Project, click: str) -> str:
        """The URL of the customer's own page at the payment provider."""
        self._check_open()
        account = await self.book.account(project.id)
        if account is None or not account.customer:
            raise InvalidRequest("The project has never paid for anything, so it has no bills.")
        return await self.gateway.portal(account.customer, click)

    async def change_plan(self, project: Project, plan: str, click: str) -> None:
        self._check_sold(plan)
        paying = await self._needed(project)
        await self.gateway.change_plan(paying.id, plan, click)

    async def cancel(self, project: Project, click: str) -> Subscription:
        """At the end of the period that is paid for."""
        paying = await self._needed(project)
        await self.gateway.cancel(paying.id, click)
        return paying

    async def standing(self, project: Project) -> Standing:
        return Standing(
            await self.book.account(project.id) or Account(project.id),
            await self.book.subscriptions(project.id),
            await self.book.events(project.id, EVENTS_SHOWN),
        )

    async def _needed(self, project: Project) -> Subscription:
        self._check_open()
        paying = self._paying(await self.book.subscriptions(project.id))
        if paying is None:
            raise InvalidRequest("The project has no subscription.")
        return paying

    def _paying(self, subscriptions: Sequence[Subscription]) -> Subscription | None:
        """Late ones included: what is owed is paid before another is begun."""
        living = (*billing.GOOD, billing.PAST_DUE, billing.UNPAID, billing.PAUSED)
        return next((one for one in subscriptions if one.status in living), None)

    def _check_open(self) -> None:
        if not self.gateway.sells:
            raise NotFound(
                "Nothing is sold here: STRIPE_SECRET_KEY or the plans' price ids are not set."
            )

    def _check_sold(self, plan: str) -> None:
        known = self.plans.get(plan)
        if known is None or not known.price_usd_per_month:
            sold = [name for name, one in self.plans.items() if one.price_usd_per_month]
            raise InvalidRequest(f"There is no plan {plan} to pay for, only {', '.join(sold)}.")
