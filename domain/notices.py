"""What people are told outside of any request: which notices there are, who gets each, when one is tried again.

Their words are `domain.words`. Sending them is the adapters' matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import field

from domain.value import value

PAYMENT_FAILED = "payment_failed"
PAYMENT_ACTION_REQUIRED = "payment_action_required"
PAYMENT_RECOVERED = "payment_recovered"
PLAN_CHANGED = "plan_changed"
CANCELLATION_SCHEDULED = "cancellation_scheduled"
CANCELLATION_WITHDRAWN = "cancellation_withdrawn"
TRIAL_ENDING = "trial_ending"
GRACE_ENDING = "grace_ending"
GRACE_ENDED = "grace_ended"
DISPUTE_OPENED = "dispute_opened"
DISPUTE_CLOSED = "dispute_closed"
QUOTA_80, QUOTA_100 = "quota_80", "quota_100"
BUDGET_80, BUDGET_100 = "budget_80", "budget_100"
PROVIDER_KEY_REFUSED = "provider_key_refused"
WEEKLY_REPORT = "weekly_report"

MAIL, TEAM, CHANNEL = "mail", "team", "channel"
"""By mail to the project's owners, to the operator's team channels, to the project's own channel."""

WAITING, SENT, DEAD = STATES = ("waiting", "sent", "dead")
"""What a delivery is: yet to be sent, sent, given up."""

OWNERS = frozenset({MAIL, CHANNEL})
EVERYBODY = frozenset({MAIL, TEAM, CHANNEL})

AUDIENCES: Mapping[str, frozenset[str]] = {
    PAYMENT_FAILED: EVERYBODY,
    PAYMENT_ACTION_REQUIRED: OWNERS,
    PAYMENT_RECOVERED: EVERYBODY,
    PLAN_CHANGED: EVERYBODY,
    CANCELLATION_SCHEDULED: EVERYBODY,
    CANCELLATION_WITHDRAWN: EVERYBODY,
    TRIAL_ENDING: OWNERS,
    GRACE_ENDING: OWNERS,
    GRACE_ENDED: EVERYBODY,
    DISPUTE_OPENED: frozenset({TEAM}),
    DISPUTE_CLOSED: frozenset({TEAM}),
    QUOTA_80: EVERYBODY,
    QUOTA_100: EVERYBODY,
    BUDGET_80: EVERYBODY,
    BUDGET_100: EVERYBODY,
    PROVIDER_KEY_REFUSED: frozenset({TEAM}),
    WEEKLY_REPORT: OWNERS,
}

ON_THE_BILL = frozenset({PAYMENT_FAILED, PAYMENT_ACTION_REQUIRED})
"""They go to the address on the bill."""

OPTIONAL = frozenset({WEEKLY_REPORT})
"""Not transactional: whoever gets one can ask for no more."""

TOLD_IN_ORDER = frozenset(
    {PLAN_CHANGED, CANCELLATION_SCHEDULED, CANCELLATION_WITHDRAWN, PAYMENT_RECOVERED}
)
"""True only as long as nothing older comes to be known. They wait for `SETTLING` seconds, and are withdrawn if it does."""
SETTLING = 15.0

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 3_600.0
PATIENCE = 86_400.0
"""Seconds after which a notice that nobody takes is given up."""


@value
class Notice:
    """`id` is the same however often it is told. `facts` are JSON values; `email` is the bill's, empty if unknown."""

    id: str
    kind: str
    project: str
    email: str
    facts: Mapping[str, object]


@value
class Contact:
    """Where a project's owners want to be told. Without `email` that is the address of their bills.

    `channel` is the URL of an incoming webhook, and whoever has it can write there. `reports` is whether they want what
    is not transactional.
    """

    project: str
    email: str = ""
    channel: str = field(default="", repr=False)
    reports: bool = True


@value
class Delivery:
    """One notice on its way to one recipient: a mail address, the digest of a team channel's URL, or for the project's own
    channel its id.

    `notice`, `channel` and `recipient` together say which it is. `subject` is the subscription it tells of, empty
    if it is not told in order. Times are wall-clock seconds, `attempts` those begun.
    """

    notice: str
    channel: str
    recipient: str
    kind: str
    project: str
    facts: Mapping[str, object]
    queued_at: float
    due_at: float
    subject: str = ""
    attempts: int = 0
    sent_at: float | None = None
    dead_at: float | None = None
    fault: str = ""

    @property
    def state(self) -> str:
        if self.sent_at is not None:
            return SENT
        return WAITING if self.dead_at is None else DEAD


class Undelivered(Exception):
    """`reason` is a short text without any address or secret; `permanent` if trying again is no use."""

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


def deliveries(
    notice: Notice, contact: Contact, team: Iterable[str], now: float, subject: str = ""
) -> list[Delivery]:
    """To everybody it concerns. `team` are the digests of the operator's channels.

    A bill's mail goes to the address on the bill, everything else to the one that the owners gave, if they did.
    """
    audience = AUDIENCES[notice.kind]
    if notice.kind in OPTIONAL and not contact.reports:
        return []
    recipients = [(TEAM, one) for one in team if TEAM in audience]
    if MAIL in audience and (mail := _mail_for(notice, contact)):
        recipients.append((MAIL, mail))
    if CHANNEL in audience and contact.channel:
        recipients.append((CHANNEL, notice.project))
    due_at = now + SETTLING if notice.kind in TOLD_IN_ORDER else now
    return [
        Delivery(
            notice.id,
            channel,
            recipient,
            notice.kind,
            notice.project,
            notice.facts,
            queued_at=now,
            due_at=due_at,
            subject=subject,
        )
        for channel, recipient in recipients
    ]


def _mail_for(notice: Notice, contact: Contact) -> str:
    if notice.kind in ON_THE_BILL:
        return notice.email or contact.email
    return contact.email or notice.email


def pause(attempts: int, chance: float) -> float:
    """Seconds until the next attempt, after so many: doubling, an hour at most. `chance` in [0, 1) spreads them."""
    longest = min(FIRST_PAUSE * 2.0 ** min(attempts, 32), LONGEST_PAUSE)
    return longest * (0.5 + chance / 2)


def given_up(delivery: Delivery, next_at: float) -> bool:
    """Whether the next attempt would come too late."""
    return next_at > delivery.queued_at + PATIENCE


def crossed(used: int, most: int) -> int:
    """The highest of 80 and 100 per cent that `used` has reached, else 0; `most` 0 is no limit."""
    if not most:
        return 0
    if used >= most:
        return 100
    return 80 if used * 5 >= most * 4 else 0
