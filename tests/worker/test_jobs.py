"""Jobs and outcomes: values that an engine keeps as text, and what an application makes them from."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite import ConfigurationError, Envelope, MessageError, Recipient
from smtplite.worker import Backoff, Job, Outcome, jobs_for
from smtplite.worker.jobs import has_identity_fields
from tests.exhaustive import examples
from tests.worker.kit import letter


def message() -> EmailMessage:
    built = EmailMessage()
    built["From"] = "Ada <ada@example.org>"
    built["To"] = "grace@example.net"
    built["Bcc"] = "alan@example.net"
    built["Subject"] = "Grüße"
    built.set_content("Überweisung.\n")
    return built


def test_a_message_becomes_a_job_for_each_recipient_with_one_message_id_and_date() -> None:
    jobs = jobs_for(message())
    assert [job.identity.recipient for job in jobs] == ["grace@example.net", "alan@example.net"]
    [key] = {job.key for job in jobs}
    [content] = {job.content for job in jobs}
    assert content is not None
    assert re.findall(rb"(?m)^Message-ID: (\S+)\r$", content) == [key.encode()]
    assert len(re.findall(rb"(?m)^Date: ", content)) == 1
    assert b"alan" not in content
    assert content.isascii()
    assert jobs[0].envelope.sender == "ada@example.org"


def test_the_callers_message_stays_as_it_is() -> None:
    built = message()
    jobs_for(built)
    assert "Message-ID" not in built
    assert "Date" not in built


def test_message_id_and_date_that_are_there_stay() -> None:
    header = b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nmessage-id:\r\n <7@example.org>\r\nFrom: ada@example.org\r\n"
    octets = header + b"\r\nMessage-ID: no\r\n"
    [job] = jobs_for(octets, "grace@example.net")
    assert (job.content, job.key) == (octets, "<7@example.org>")


def test_fields_in_the_text_are_none() -> None:
    octets = b"From: ada@example.org\r\n\r\nMessage-ID: <no@example.org>\r\nDate: never\r\n"
    assert not has_identity_fields(octets)
    [job] = jobs_for(octets, "grace@example.net")
    assert job.key != "<no@example.org>"
    assert has_identity_fields(job.content or b"")


def test_not_after_is_a_time_or_counted_from_now() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert letter(not_after=at)[0].not_after == at.timestamp()
    assert letter(not_after=timedelta(hours=1))[0].not_after == pytest.approx(time.time() + 3600, abs=60)
    assert letter()[0].not_after == pytest.approx(time.time() + 4 * 86_400, abs=60)
    with pytest.raises(MessageError, match="time zone"):
        letter(not_after=datetime(2030, 1, 1))


def test_an_envelope_keeps_its_parameters_in_the_queue() -> None:
    recipient = Recipient(
        "grace@example.net", notify=["FAILURE", "DELAY"], orcpt="g@example.com", parameters={"X": None}
    )
    envelope = Envelope("", [recipient, "alan@example.net"], ret="HDRS", envid="7", dsn="drop", parameters={"BY": "9"})
    first, second = jobs_for(b"From: ada@example.org\r\n\r\n", envelope=envelope)
    assert first.envelope == attrs.evolve(envelope, recipients=[recipient])
    assert Job.from_header(first.to_header(), first.content).envelope == first.envelope
    assert second.envelope.recipients == (Recipient("alan@example.net"),)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@examples(200)
@given(
    key=TEXT,
    when_unknown=st.sampled_from(["retry", "record"]),
    not_after=st.floats(0, 1e11),
    attempt=st.integers(1, 10**6),
    is_uncertain=st.booleans(),
    last=st.text(max_size=100),
)
def test_a_job_survives_the_queue(**fields: Any) -> None:
    [job] = letter()
    job = attrs.evolve(job, **fields)
    again = Job.from_header(job.to_header(), job.content)
    assert attrs.asdict(again) == attrs.asdict(job)


@pytest.mark.parametrize(
    "header",
    ["", "[]", "{}", '{"key":"a"}', '{"key":"a","envelope":{"sender":"","recipients":[{}]}}', '{"envelope":7}'],
)
def test_what_others_put_into_the_queue_is_refused(header: str) -> None:
    with pytest.raises(MessageError, match="not a job that smtplite"):
        Job.from_header(header, b"")


@pytest.mark.parametrize("message", ["From: a@b.example", 5, [7], None])
def test_what_is_no_message_is_refused_by_name(message: Any) -> None:
    """A number became so many NULs, and a str a TypeError without a word about the message."""
    with pytest.raises(MessageError, match=f"or bytes, not {type(message).__name__}"):
        jobs_for(message, ["grace@example.net"], sender="ada@example.org")


def test_a_reference_takes_the_place_of_content() -> None:
    job = attrs.evolve(letter()[0], content=None, reference="s3://letters/7")
    again = Job.from_header(job.to_header(), b"")
    assert (again.content, again.reference) == (None, "s3://letters/7")


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ""},
        {"key": "a\0"},
        {"lane": "a b"},
        {"lane": ""},
        {"when_unknown": "again"},
        {"content": None},
        {"reference": "x"},
    ],
)
def test_what_is_no_job_is_refused(changes: dict[str, Any]) -> None:
    [job] = letter()
    with pytest.raises(MessageError):
        attrs.evolve(job, **changes)


def test_a_job_has_one_recipient() -> None:
    with pytest.raises(MessageError, match="one recipient, not 2"):
        Job(key="a", envelope=Envelope("", ["a@example.net", "b@example.net"]), content=b"")


def test_an_outcome_survives_the_store() -> None:
    outcome = Outcome(
        status="refused", reply="550 no", error="RecipientsRefused", message_id="<1@a>", attempt=3, at=1.5
    )
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_backoff_doubles_up_to_the_longest_and_is_jittered() -> None:
    backoff = Backoff(first=60, longest=600)
    for attempt, most in [(1, 60), (2, 120), (4, 480), (5, 600), (10**6, 600)]:
        seconds = [backoff.seconds(attempt) for _ in range(50)]
        assert most / 2 <= min(seconds) < max(seconds) <= most
    with pytest.raises(ConfigurationError):
        Backoff(first=60, longest=6)
