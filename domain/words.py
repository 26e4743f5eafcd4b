"""The words of each notice: plain, kind and short. As a mail's text and HTML, and as one message for a channel.

Whatever is not known is left out. How facts are written is `domain.phrases`, how a channel marks up the adapters' matter.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping

from domain.notices import (
    BUDGET_80,
    BUDGET_100,
    CANCELLATION_SCHEDULED,
    CANCELLATION_WITHDRAWN,
    DISPUTE_CLOSED,
    DISPUTE_OPENED,
    GRACE_ENDED,
    GRACE_ENDING,
    OPTIONAL,
    PAYMENT_ACTION_REQUIRED,
    PAYMENT_FAILED,
    PAYMENT_RECOVERED,
    PLAN_CHANGED,
    PROVIDER_KEY_REFUSED,
    QUOTA_80,
    QUOTA_100,
    TRIAL_ENDING,
    WEEKLY_REPORT,
    Undelivered,
)
from domain.phrases import LONGEST_FACT, Facts, clean, cut, secure_url, url_of
from domain.value import value

LONGEST_SUBJECT, LONGEST_MESSAGE = 120, 600

_PARAGRAPH = '<p style="margin:0 0 1em">'
_PAGE = (
    '<!doctype html>\n<html lang="en"><body style="margin:0;padding:1.5em;max-width:36em;'
    'font:16px/1.5 sans-serif;color:#222">\n'
)


@value
class Words:
    """`message` is one or two lines without markup. `unsubscribe` is a URL, empty where the notice is not optional."""

    subject: str
    text: str
    html: str
    message: str
    unsubscribe: str = ""


@value
class Links:
    """Where WatchLLM is reached, and where this one reader asks for no more of what is optional."""

    public_url: str = ""
    unsubscribe: str = ""


@value
class _Letter:
    """`brief` is the message's second line. `pay` leads the URL of a bill in, if there is one."""

    subject: str
    body: tuple[str, ...]
    brief: str
    pay: str = ""


def words(kind: str, facts: Mapping[str, object], project_name: str, links: Links) -> Words:
    """Raises Undelivered for a kind that a newer version knows and this one does not."""
    written = _LETTERS.get(kind)
    if written is None:
        raise Undelivered("this version has no words for it")
    name = clean(project_name, LONGEST_FACT)
    letter = written(Facts(facts, name))
    subject = clean(f"{letter.subject} ({name})" if name else letter.subject, LONGEST_SUBJECT)
    unsubscribe = url_of(links.unsubscribe) if kind in OPTIONAL else ""
    paragraphs = [(one, "") for one in letter.body if one]
    if letter.pay and (bill := secure_url(facts.get("link"))):
        paragraphs.append((letter.pay, bill))
    paragraphs.append(("WatchLLM", url_of(links.public_url)))
    if unsubscribe:
        paragraphs.append(("You do not want these reports any more?", unsubscribe))
    return Words(
        subject,
        "\n\n".join(f"{said}\n{url}" if url else said for said, url in paragraphs) + "\n",
        _page(paragraphs),
        cut(f"{subject}\n{letter.brief}" if letter.brief else subject, LONGEST_MESSAGE),
        unsubscribe,
    )


def _page(paragraphs: list[tuple[str, str]]) -> str:
    written = [f"{_PARAGRAPH}{html.escape(said)}{_anchor(url)}</p>\n" for said, url in paragraphs]
    return f"{_PAGE}{''.join(written)}</body></html>\n"


def _anchor(url: str) -> str:
    """Shown as it is: nobody has to trust a button."""
    if not url:
        return ""
    escaped = html.escape(url)
    return f'<br>\n<a href="{escaped}" style="color:#0b57d0;word-break:break-all">{escaped}</a>'


def _said(*sentences: str) -> str:
    return " ".join(one for one in sentences if one)


# --- money ----------------------------------------------------------------------------------------


def _payment_failed(facts: Facts) -> _Letter:
    attempt = facts.number("attempt") or 0
    which = f" (attempt {attempt})" if 1 < attempt < 100 else ""
    again, ends = facts.day("next_attempt_at"), facts.day("ends_at")
    retry = f"It is tried again on {again}." if again else ""
    if "next_attempt_at" in facts.facts and facts.facts["next_attempt_at"] is None:
        retry = "It is not tried again by itself."
    stays = f"The plan stays as it is until {ends}." if ends else ""
    falls = "If nothing is paid by then, the project goes on with the free plan." if ends else ""
    return _Letter(
        "A payment did not go through",
        (
            f"A payment{facts.bill()}{facts.of_project} did not go through{which}.",
            retry,
            _said(stays, falls),
            "Most often the card has expired, or the bank said no. Please check the card, or pay with another one.",
        ),
        _said(f"A payment{facts.bill()} did not go through{which}.", retry, stays),
        "You can pay the bill here:",
    )


def _payment_action_required(facts: Facts) -> _Letter:
    return _Letter(
        "Please confirm a payment",
        (
            f"Your bank wants you to confirm a payment{facts.bill()}{facts.of_project}, for instance in its app.",
            "Until you do, the payment is open.",
        ),
        f"The bank wants the owner to confirm a payment{facts.bill()}.",
        "You can confirm it here:",
    )


def _payment_recovered(facts: Facts) -> _Letter:
    plan = facts.plan()
    keeps = f" {facts.the_project} stays on the {plan}." if plan else ""
    return _Letter(
        "The payment has arrived",
        (f"Thank you: the open payment{facts.of_project} has arrived.{keeps}", "All is well."),
        f"The open payment has arrived.{keeps}",
    )


_WHY = {
    "past_due": "A payment is open.",
    "unpaid": "Bills were not paid.",
    "paused": "The subscription is paused.",
    "canceled": "The subscription has ended.",
    "incomplete": "The first payment is open.",
    "incomplete_expired": "The first payment did not arrive in time.",
    "trialing": "It begins with a trial.",
}


def _plan_changed(facts: Facts) -> _Letter:
    before, after = facts.plan("before"), facts.plan("after")
    why = _WHY.get(facts.text("why"), "")
    change = f"{facts.the_project} has another plan now."
    if after:
        came = f", it was on the {before} before" if before else ""
        change = f"{facts.the_project} is on the {after} now{came}."
    limits = "The new limits hold at once. Keys and settings stay as they are."
    return _Letter("The plan has changed", (change, why, limits), _said(change, why))


def _cancellation_scheduled(facts: Facts) -> _Letter:
    plan, ends = facts.plan() or "plan", facts.day("at")
    when = f"on {ends}" if ends else "at the end of the time that is paid for"
    ending = f"The {plan}{facts.of_project} ends {when}."
    return _Letter(
        "The plan is cancelled",
        (
            ending,
            "Until then all stays as it is. After that the project goes on with the free plan; keys and settings stay.",
            "If you did not mean to cancel, you can take it back until then.",
        ),
        ending,
    )


def _cancellation_withdrawn(facts: Facts) -> _Letter:
    stays = f"The {facts.plan() or 'plan'}{facts.of_project} goes on as before."
    return _Letter(
        "The plan goes on",
        (f"The cancellation was taken back. {stays}",),
        f"The cancellation was taken back. {stays}",
    )


def _trial_ending(facts: Facts) -> _Letter:
    plan, ends = facts.plan(), facts.day("at")
    trial = f"The trial of the {plan}" if plan else "The trial"
    ending = f"{trial}{facts.of_project} ends {f'on {ends}' if ends else 'soon'}."
    return _Letter(
        "The trial ends soon",
        (
            ending,
            "To keep the plan, please see to it that a card is on file. Else there is nothing to do.",
        ),
        ending,
    )


def _grace_ending(facts: Facts) -> _Letter:
    plan, ends = facts.plan() or "plan", facts.day("at")
    ending = (
        f"The {plan}{facts.of_project} ends {f'on {ends}' if ends else 'soon'} if nothing is paid."
    )
    return _Letter(
        "A payment is still open",
        (
            f"A payment is still open. {ending}",
            "The project then goes on with the free plan. As soon as the payment has arrived, all is as before.",
        ),
        ending,
    )


def _grace_ended(facts: Facts) -> _Letter:
    plan, ended = facts.plan() or "plan", facts.day("at")
    end = f"The {plan}{facts.of_project} has ended{f' on {ended}' if ended else ''}: a payment is open."
    return _Letter(
        "The project is on the free plan now",
        (
            end,
            "The project goes on with the free plan; keys and settings stay. As soon as the payment has arrived, all is"
            " as before.",
        ),
        end,
    )


def _dispute_opened(facts: Facts) -> _Letter:
    reason, due = facts.text("reason").replace("_", " "), facts.day("due_by")
    opened = f"A payment{facts.bill()} is disputed{f': {reason}' if reason else ''}."
    answer = f"An answer is due by {due}." if due else ""
    return _Letter(
        "A payment is disputed", (opened, answer, _traces(facts)), _said(opened, answer)
    )


def _dispute_closed(facts: Facts) -> _Letter:
    status = facts.text("status").replace("_", " ")
    closed = (
        f"The dispute about a payment{facts.bill()} is closed{f': {status}' if status else ''}."
    )
    return _Letter("A dispute is closed", (closed, _traces(facts)), closed)


def _traces(facts: Facts) -> str:
    named = [(name, facts.text(name)) for name in ("dispute", "charge", "customer")]
    known = ", ".join(f"{name} {said}" for name, said in named if said)
    return f"At the payment provider: {known}." if known else ""


# --- use ------------------------------------------------------------------------------------------


def _allowance(
    full: bool, of: str, unit: str, stopped: str, raised: str
) -> Callable[[Facts], _Letter]:
    """Of requests, or of money where there is no unit."""

    def letter(facts: Facts) -> _Letter:
        used, most = (facts.count("used"), facts.count("most"))
        if not unit:
            used, most = facts.dollars("used"), facts.dollars("most")
        month, resets = facts.month("month"), facts.day("resets_at")
        share = facts.share("used", "most")
        in_month = f" of {month}" if month else ""
        begun = f"{facts.the_project} has used up the {of}{in_month}"
        if not full:
            begun = f"{facts.the_project} has used {share or '80 %'} of the {of}{in_month}"
        sums = f": {used} of {most}{unit}." if used and most else "."
        refused = f"Until then, {stopped} are refused." if full else ""
        anew = f"It begins anew on {resets}." if resets else "It begins anew next month."
        subject = f"The {of} is used up" if full else f"{share or '80 %'} of the {of} is used"
        return _Letter(
            subject,
            (f"{begun}{sums}", _said(anew, refused), raised),
            _said(f"{begun}{sums}", anew, refused),
        )

    return letter


_QUOTA = ("monthly quota", " requests", "requests", "A bigger plan has more requests.")
_BUDGET = (
    "monthly budget",
    "",
    "requests that would cost something",
    "Whoever set the budget can raise it. Answers from the cache cost nothing.",
)
_NAMES = {"openai": "OpenAI", "anthropic": "Anthropic", "groq": "Groq"}


def _provider_key_refused(facts: Facts) -> _Letter:
    provider = facts.text("provider")
    name = _NAMES.get(provider, provider) or "A provider"
    status = facts.number("status")
    answered = f" with {status}" if status is not None and 100 <= status < 600 else ""
    refused = f"{name} refuses our API key{answered}."
    return _Letter(
        f"{name} refuses our key",
        (refused, "Calls that need this provider fail until there is a key that it takes."),
        refused,
    )


def _weekly_report(facts: Facts) -> _Letter:
    since, until = facts.day("since"), facts.day("until", before=1)
    week = f", {since} to {until}" if since and until else ""
    requests, hits, share = (
        facts.count("requests"),
        facts.count("hits"),
        facts.share("hits", "requests"),
    )
    saved, cost, tokens = (
        facts.dollars("saved"),
        facts.dollars("cost"),
        facts.count("tokens_saved"),
    )
    asked = f"{requests} request{'s' * (requests != '1')}" if requests else ""
    if asked and hits:
        asked += f", {hits} of them answered from the cache{f' ({share})' if share else ''}"
    kept = f"The cache saved {saved}{f' and {tokens} tokens' if tokens else ''}." if saved else ""
    spent = f"The providers were paid {cost}." if cost else ""
    return _Letter(
        f"Saved last week: {saved}" if saved else "Last week's savings",
        (
            f"This was last week{facts.of_project}{week}.",
            f"{asked}." if asked else "",
            kept,
            spent,
        ),
        _said(kept, f"{asked}." if asked else ""),
    )


_LETTERS: Mapping[str, Callable[[Facts], _Letter]] = {
    PAYMENT_FAILED: _payment_failed,
    PAYMENT_ACTION_REQUIRED: _payment_action_required,
    PAYMENT_RECOVERED: _payment_recovered,
    PLAN_CHANGED: _plan_changed,
    CANCELLATION_SCHEDULED: _cancellation_scheduled,
    CANCELLATION_WITHDRAWN: _cancellation_withdrawn,
    TRIAL_ENDING: _trial_ending,
    GRACE_ENDING: _grace_ending,
    GRACE_ENDED: _grace_ended,
    DISPUTE_OPENED: _dispute_opened,
    DISPUTE_CLOSED: _dispute_closed,
    QUOTA_80: _allowance(False, *_QUOTA),
    QUOTA_100: _allowance(True, *_QUOTA),
    BUDGET_80: _allowance(False, *_BUDGET),
    BUDGET_100: _allowance(True, *_BUDGET),
    PROVIDER_KEY_REFUSED: _provider_key_refused,
    WEEKLY_REPORT: _weekly_report,
}
