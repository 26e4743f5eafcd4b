"""Notices on their way out: none is lost in silence, and none goes out twice unless somebody died."""

from __future__ import annotations

import asyncio
import logging

import pytest
from attrs import define, evolve, field

from adapters.notify.channel import Channel
from adapters.notify.smtp import Smtp
from adapters.sql.postbox import SqlPostbox
from app.services.outbox import AT_ONCE, LEASE, MOST, Outbox
from domain.channels import TooMany
from domain.errors import Unavailable
from domain.notices import (
    CHANNEL,
    DISPUTE_OPENED,
    LONGEST_PAUSE,
    MAIL,
    PATIENCE,
    PAYMENT_FAILED,
    QUOTA_80,
    SETTLING,
    TEAM,
    WEEKLY_REPORT,
    Contact,
    Delivery,
    Notice,
    Undelivered,
)
from domain.words import Words
from tests.support.hooks import Answer, hook_sink
from tests.support.mail import mail_sink
from tests.support.postbox import MemoryChores, MemoryContacts, MemoryPostbox, key

pytestmark = pytest.mark.usefixtures("_tasks")


@pytest.fixture(params=["lazy", "eager"])
def _tasks(request, io_loop):
    """In production a task begins before `create_task` returns, where Python knows how (3.12)."""
    if request.param == "eager":
        io_loop.asyncio_loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))


@define
class Recorder:
    """A way to reach somebody. `faults` are what the next sends end with instead of well, `gate` holds them up."""

    sent: list[Delivery] = field(factory=list)
    faults: list[BaseException] = field(factory=list)
    gate: asyncio.Event | None = None
    at_once: int = 0
    most_at_once: int = 0
    closed: int = 0

    async def send(self, delivery, words, /):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.faults:
                raise self.faults.pop(0)
            self.sent.append(delivery)
        finally:
            self.at_once -= 1

    async def aclose(self):
        self.closed += 1


class Killed(BaseException):
    """Nobody lives to catch it."""


@define
class Post:
    """An outbox and all it stands on. `processes` more of them may share what is kept."""

    clock: object
    box: MemoryPostbox = field(factory=MemoryPostbox)
    contacts: MemoryContacts = field(factory=MemoryContacts)
    chores: MemoryChores = field(factory=MemoryChores)
    mail: object = field(factory=Recorder)
    team: dict = field(factory=dict)
    hooks: dict = field(factory=dict)
    pauses: list[float] = field(factory=list)
    chance: float = 0.0

    def process(self, **changes):
        return Outbox(
            **{
                "postbox": self.box,
                "contacts": self.contacts,
                "chores": self.chores,
                "mail": self.mail,
                "team": self.team,
                "channel": self.hooks.__getitem__,
                "words": self.words,
                "clock": self.clock,
                "chance": lambda: self.chance,
                "sleep": self.sleep,
                **changes,
            }
        )

    async def words(self, delivery):
        return Words(f"About {delivery.notice}", "text\n", "<p>html</p>\n", "message")

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    @property
    def states(self):
        return [one.state for one in self.box.kept.values()]


@pytest.fixture
def post(clock):
    return Post(clock)


def delivery(number=0, channel=MAIL, recipient="ann@customer.test", at=1_800_000_000.0):
    return Delivery(
        f"quota_80:prj_{number}:2027-01",
        channel,
        recipient,
        QUOTA_80,
        f"prj_{number}",
        {},
        queued_at=at,
        due_at=at,
    )


def notice(kind, **more):
    return Notice(f"{kind}:1", kind, "prj_1", "bill@customer.test", more)


def alarms(caplog):
    return [line for line in caplog.records if line.levelno >= logging.ERROR]


async def until(ready):
    async with asyncio.timeout(20):
        while not ready():
            await asyncio.sleep(0.005)


# --- in -------------------------------------------------------------------------------------------


async def test_everybody_concerned_is_told(post):
    """The owners' mail and channel, and each of the team's; in the forms that each way needs."""
    post.team = {"aaa": Recorder(), "bbb": Recorder()}
    post.hooks = {"https://hook": Recorder()}
    await post.contacts.keep(Contact("prj_1", "ann@customer.test", "https://hook"))
    outbox = post.process()

    assert 4 == await outbox.post([notice(QUOTA_80)])
    assert 4 == await outbox.deliver_due()

    assert ["ann@customer.test"] == [one.recipient for one in post.mail.sent]
    assert [["aaa"], ["bbb"]] == [
        [one.recipient for one in recorder.sent] for recorder in post.team.values()
    ]
    assert ["prj_1"] == [one.recipient for one in post.hooks["https://hook"].sent]
    assert 1 == post.hooks["https://hook"].closed
    assert ["sent"] * 4 == post.states


async def test_the_same_notice_again_is_none(post):
    outbox = post.process()
    assert 1 == await outbox.post([notice(QUOTA_80)])
    await outbox.deliver_due()

    assert 0 == await outbox.post([notice(QUOTA_80)])
    assert 0 == await outbox.deliver_due()
    assert 1 == len(post.mail.sent)


async def test_of_no_project(post):
    """What only the team has to know belongs to nobody else."""
    post.team = {"aaa": Recorder()}

    assert 1 == await post.process().post([evolve(notice(DISPUTE_OPENED), project="")])


async def test_a_report_nobody_wants(post):
    await post.contacts.keep(Contact("prj_1", "ann@customer.test", reports=False))

    assert 0 == await post.process().post([notice(WEEKLY_REPORT)])


async def test_what_cannot_be_kept_is_refused(post):
    """The caller knows then, and can come again."""
    post.box.store.away = 1

    with pytest.raises(Unavailable):
        await post.process().post([notice(QUOTA_80)])


# --- out ------------------------------------------------------------------------------------------


async def test_it_is_tried_again_after_ever_longer_pauses(post, clock):
    """From two seconds up to an hour, for a day; then it is given up, with one alarm that holds no address."""
    await post.box.add([delivery()])
    post.mail.faults = [Undelivered("it is away") for _ in range(1_000)]
    outbox = post.process(chance=lambda: 0.999_999)
    pauses = []
    while post.states == ["waiting"]:
        assert 1 == await outbox.deliver_due()
        [kept] = post.box.kept.values()
        if kept.state == "waiting":
            pauses.append(kept.due_at - clock())
            clock.advance(pauses[-1] / 2)
            assert 0 == await outbox.deliver_due()
            clock.now = kept.due_at

    assert [2, 4, 8, 16, 32] == [round(pause) for pause in pauses[:5]]
    assert LONGEST_PAUSE == pytest.approx(max(pauses))
    assert sorted(pauses) == pytest.approx(pauses)
    [kept] = post.box.kept.values()
    assert "dead" == kept.state
    assert "it is away" == kept.fault
    assert PATIENCE - LONGEST_PAUSE <= kept.dead_at - kept.queued_at <= PATIENCE


async def test_giving_up_is_an_alarm(post, clock, caplog):
    """One, for the operator: it says what was not delivered and why, and to whom only in the database."""
    await post.box.add([delivery()])
    outbox = post.process()
    for _ in range(3):
        post.mail.faults.append(Undelivered("the mail server refuses the recipient (450)"))
        await outbox.deliver_due()
        clock.advance(10)
    assert [] == alarms(caplog)
    post.mail.faults.append(
        Undelivered("the mail server refuses the recipient (550)", permanent=True)
    )
    await outbox.deliver_due()

    [line] = alarms(caplog)
    assert "a notice could not be delivered" == line.message
    assert (
        QUOTA_80,
        MAIL,
        "quota_80:prj_0:2027-01",
        "the mail server refuses the recipient (550)",
    ) == (
        line.kind,
        line.channel,
        line.notice,
        line.fault,
    )
    assert "ann@" not in str(line.__dict__)
    assert ["dead"] == post.states


async def test_a_channel_says_when_to_come_back(post, clock):
    """And is asked no earlier."""
    post.team = {
        "aaa": Recorder(faults=[TooMany("the channel takes no more just now (429)", 300)])
    }
    await post.box.add([delivery(channel=TEAM, recipient="aaa")])
    outbox = post.process()
    await outbox.deliver_due()
    clock.advance(299)
    assert 0 == await outbox.deliver_due()
    clock.advance(1)
    assert 1 == await outbox.deliver_due()

    assert ["sent"] == post.states


async def test_a_team_channel_that_is_not_known_here(post, clock):
    """Where settings change from process to process, another one may know it already."""
    await post.box.add([delivery(channel=TEAM, recipient="new")])
    old, new = post.process(), post.process(team={"new": Recorder()})
    await old.deliver_due()
    clock.advance(5)
    await new.deliver_due()

    assert ["sent"] == post.states


async def test_a_channel_that_was_taken_away(post, caplog):
    """Its owner took it: there is nobody to tell."""
    await post.box.add([delivery(channel=CHANNEL, recipient="prj_0")])
    await post.process().deliver_due()

    assert ["dead"] == post.states


async def test_one_that_cannot_be_written_holds_up_nobody(post, caplog):
    """A fault of ours in the words for one kind of notice: told once, with where it was."""
    await post.box.add([delivery(number) for number in range(3)])

    async def words(told):
        if told.project == "prj_1":
            raise KeyError("amount")
        return Words("s", "t", "h", "m")

    outbox = post.process(words=words)
    await outbox.deliver_due()
    await outbox.deliver_due()

    assert ["sent", "dead", "sent"] == post.states
    [line] = alarms(caplog)
    assert isinstance(line.exc_info[1], KeyError)


async def test_a_batch_is_small_and_so_is_its_crowd(post):
    """Ten at a time, five of them at once: a mail server is not overrun, nor does one slow channel stop the others."""
    await post.box.add([delivery(number) for number in range(25)])
    post.mail.gate = asyncio.Event()
    outbox = post.process()
    under_way = asyncio.create_task(outbox.deliver_due())
    await until(lambda: post.mail.at_once == AT_ONCE)
    post.mail.gate.set()

    assert [MOST, 10, 5, 0] == [await under_way] + [await outbox.deliver_due() for _ in range(3)]
    assert AT_ONCE == post.mail.most_at_once


# --- several processes, and their ends ------------------------------------------------------------


async def test_two_processes_never_send_one_twice(post):
    """While both are alive: a lease is one's alone."""
    await post.box.add([delivery(number) for number in range(60)])
    outboxes = [post.process() for _ in range(2)]

    async def work(outbox):
        while await outbox.deliver_due():
            await asyncio.sleep(0)

    await asyncio.gather(*map(work, outboxes))

    assert 60 == len(post.mail.sent) == len({key(one) for one in post.mail.sent})


async def test_nor_over_a_real_database(post, db):
    """SQLite and PostgreSQL: three processes work off one queue, and each notice goes out once."""
    box = SqlPostbox(db)
    await box.add([delivery(number) for number in range(100)])
    outboxes = [post.process(postbox=box) for _ in range(3)]

    async def work(outbox):
        while await outbox.deliver_due():
            await asyncio.sleep(0)

    await asyncio.gather(*map(work, outboxes))

    assert 100 == len(post.mail.sent) == len({key(one) for one in post.mail.sent})
    assert (0, 0.0) == await box.waiting(post.clock())
    assert 100 == len(await box.find(["sent"], 1_000))


async def test_a_crash_between_sending_and_noting(clock):
    """It is sent again when the lease has ended, and is the same mail by its Message-ID."""
    async with mail_sink() as sink:
        post = Post(clock, mail=Smtp(f"smtp://127.0.0.1:{sink.port}", "a@watchllm.test"))
        await post.box.add([delivery()])

        class Last(MemoryPostbox):
            async def sent(self, delivery, at, /):
                raise Killed

        with pytest.raises(Killed):
            await post.process(postbox=Last(post.box.store, post.box.kept)).deliver_due()
        heir = post.process()
        assert 0 == await heir.deliver_due()
        clock.advance(LEASE)
        assert 1 == await heir.deliver_due()

    first, again = sink.mails
    assert first.message["Message-ID"] == again.message["Message-ID"]
    assert ["sent"] == post.states


async def test_a_database_that_blinks_makes_no_second_mail(post, clock, caplog):
    """What was sent is noted as soon as it is back, within the lease."""
    await post.box.add([delivery()])
    outbox = post.process()
    post.mail.gate = asyncio.Event()
    under_way = asyncio.create_task(outbox.deliver_due())
    await until(lambda: post.mail.at_once)
    post.box.store.away = 5
    post.mail.gate.set()
    await under_way
    clock.advance(LEASE)
    await outbox.deliver_due()

    assert 1 == len(post.mail.sent)
    assert ["sent"] == post.states


async def test_a_process_that_stood_still_sends_nothing_late(post, clock, io_loop, monkeypatch):
    """Stopped by its machine for longer than the lease, it finds its batch sent by another."""
    await post.box.add([delivery(number) for number in range(AT_ONCE + 1)])
    loop = io_loop.asyncio_loop
    stopped, other = post.process(), post.process(mail=Recorder())
    post.mail.gate = asyncio.Event()
    under_way = asyncio.create_task(stopped.deliver_due())
    await until(lambda: post.mail.at_once == AT_ONCE)
    later = loop.time() + LEASE / 2
    with monkeypatch.context() as patched:
        patched.setattr(loop, "time", lambda: later)
        post.mail.gate.set()
        await under_way
    clock.advance(LEASE)
    await other.deliver_due()

    assert AT_ONCE == len(post.mail.sent)
    assert ["prj_5"] == [one.project for one in other.mail.sent]


# --- the loop -------------------------------------------------------------------------------------


async def running(outbox):
    return asyncio.create_task(outbox.keep_delivering())


async def stop(task, outbox):
    task.cancel()
    await asyncio.wait([task])
    await outbox.aclose()


async def test_what_is_posted_goes_out_at_once(post, monkeypatch):
    """Not with the next look only."""
    monkeypatch.setattr("app.services.outbox.EVERY", 3_600.0)
    outbox = post.process()
    task = await running(outbox)
    await until(lambda: post.box.store.calls.count("take"))
    await outbox.post([notice(QUOTA_80)])
    await until(lambda: post.mail.sent)
    await stop(task, outbox)

    assert 1 == len(post.mail.sent)
    assert 1 == post.mail.closed


async def test_a_long_queue_is_worked_off_without_a_pause(post, monkeypatch):
    monkeypatch.setattr("app.services.outbox.EVERY", 3_600.0)
    await post.box.add([delivery(number) for number in range(35)])
    outbox = post.process()
    task = await running(outbox)
    await until(lambda: len(post.mail.sent) == 35)
    await stop(task, outbox)


async def test_another_process_posted_it(post, monkeypatch):
    """Then it is found with the next look."""
    monkeypatch.setattr("app.services.outbox.EVERY", 0.01)
    outbox = post.process()
    task = await running(outbox)
    await until(lambda: post.box.store.calls.count("take") > 2)
    await post.box.add([delivery()])
    await until(lambda: post.mail.sent)
    await stop(task, outbox)


async def test_an_outage_is_two_lines(post, caplog):
    """However long it is and however often it is tried: one when it begins and one when it is over."""
    caplog.set_level(logging.INFO)
    await post.box.add([delivery()])
    post.box.store.away = 50
    outbox = post.process()
    task = await running(outbox)
    await until(lambda: post.mail.sent)
    await stop(task, outbox)

    assert ["notices wait: the database is away", "notices are delivered again"] == [
        line.message for line in caplog.records if line.name == "app.services.outbox"
    ]
    assert [10.0] * 50 == post.pauses


async def test_a_stop_lets_what_is_under_way_end(post):
    """It is sent and noted, so that the next start does not send it again."""
    await post.box.add([delivery()])
    post.mail.gate = asyncio.Event()
    outbox = post.process()
    task = await running(outbox)
    await until(lambda: post.mail.at_once)
    task.cancel()
    await asyncio.wait([task])
    closing = asyncio.create_task(outbox.aclose())
    await asyncio.sleep(0.01)
    assert not closing.done()
    post.mail.gate.set()
    await closing

    assert ["sent"] == post.states


async def test_a_kill_leaves_the_lease_to_end(post, clock):
    """Nothing else is needed for somebody else to take over."""
    await post.box.add([delivery()])
    post.mail.gate = asyncio.Event()
    under_way = asyncio.create_task(post.process().deliver_due())
    await until(lambda: post.mail.at_once)
    under_way.cancel()
    await asyncio.wait([under_way])
    post.mail.gate = None
    heir = post.process()
    assert 0 == await heir.deliver_due()
    clock.advance(LEASE)
    await heir.deliver_due()

    assert 1 == len(post.mail.sent)


# --- how it stands --------------------------------------------------------------------------------


async def test_readings_cost_no_query(post, clock):
    """They are as of the last look, four times a minute; counters are of what went out of this process."""
    post.mail.faults = [Undelivered("x"), Undelivered("x", permanent=True)]
    await post.box.add([delivery(number) for number in range(4)])
    outbox = post.process()
    clock.advance(30)
    await outbox.deliver_due()
    asked = len(post.box.store.calls)

    for _ in range(3):
        found = {(one.name, one.labels): one.value for one in outbox.readings()}
    assert asked == len(post.box.store.calls)
    by_mail = (("channel", MAIL),)
    assert {
        ("watchllm_notices_waiting", ()): 1,
        ("watchllm_notices_oldest_due_seconds", ()): 0.0,
        ("watchllm_notices_sent_total", by_mail): 2,
        ("watchllm_notices_failed_total", by_mail): 2,
        ("watchllm_notices_dead_total", by_mail): 1,
    } == found

    for _ in range(20):
        clock.advance(2)
        await outbox.deliver_due()
    assert 3 == post.box.store.calls.count("waiting")


async def test_old_ones_are_forgotten_now_and_then(post, clock):
    """By one process an hour, when they are 90 days old."""
    outboxes = [post.process() for _ in range(3)]
    for _ in range(130):
        for outbox in outboxes:
            await outbox.deliver_due()
        clock.advance(60)

    assert 3 == len(post.box.forgotten)
    assert post.box.forgotten[0] == 1_800_000_000.0 - 90 * 86_400


# --- over real sockets ----------------------------------------------------------------------------


async def test_mail_and_channels_in_earnest(clock):
    """A mail server that is busy and a channel that is broken, then well."""
    async with mail_sink() as mails, hook_sink() as hook:
        mails.recipients.append("450 busy")
        hook.answers.append(Answer(500))
        post = Post(
            clock,
            mail=Smtp(f"smtp://127.0.0.1:{mails.port}", "a@watchllm.test"),
            team={"aaa": Channel(hook.url, by_customer=False)},
        )
        outbox = post.process()
        await outbox.post([notice(PAYMENT_FAILED)])
        assert [2, 0] == [await outbox.deliver_due() for _ in range(2)]
        assert ([], ["waiting"] * 2) == (mails.mails, post.states)
        clock.advance(2)
        await outbox.deliver_due()
        await outbox.aclose()

    [mail] = mails.mails
    assert ("About payment_failed:1", ["bill@customer.test"]) == (
        mail.message["Subject"],
        mail.recipients,
    )
    assert [500, {"text": "message"}] == [500, hook.posts[-1].document]
    assert (2, ["sent"] * 2) == (len(hook.posts), post.states)


async def test_what_may_become_untrue_waits(post, clock):
    """A plan's change is told only when nothing older can be expected any more."""
    outbox = post.process()
    await outbox.post([notice("plan_changed")])
    assert 0 == await outbox.deliver_due()
    clock.advance(SETTLING)

    assert 1 == await outbox.deliver_due()
