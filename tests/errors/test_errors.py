"""The tree of errors: its shape, what each error carries, and when sending again is safe."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import pytest

from smtplite import errors
from smtplite.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    DeliveryUnknown,
    ExtensionRequired,
    LocalProtocolError,
    MessageError,
    MessageRefused,
    ProtocolError,
    RecipientsRefused,
    RemoteProtocolError,
    ReplyError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    SMTPTimeout,
    TLSError,
    TokenError,
    TransportError,
)
from smtplite.protocol import EnhancedStatusCode, Reply

TREE: dict[type[SMTPError], tuple[type[BaseException], ...]] = {
    SMTPError: (Exception,),
    ConfigurationError: (SMTPError, ValueError),
    MessageError: (SMTPError, ValueError),
    ProtocolError: (SMTPError,),
    LocalProtocolError: (ProtocolError,),
    RemoteProtocolError: (ProtocolError,),
    ReplyError: (SMTPError,),
    ServiceUnavailable: (ReplyError,),
    AuthenticationError: (ReplyError,),
    TokenError: (AuthenticationError,),
    SenderRefused: (ReplyError,),
    RecipientsRefused: (ReplyError,),
    MessageRefused: (ReplyError,),
    ExtensionRequired: (SMTPError,),
    TransportError: (SMTPError, OSError),
    ConnectError: (TransportError,),
    TLSError: (TransportError,),
    ConnectionLost: (TransportError,),
    SMTPTimeout: (TransportError, TimeoutError),
    DeliveryUnknown: (SMTPError,),
}
ALL = sorted(TREE, key=lambda error: error.__name__)
REPLY_ERRORS = [error for error in ALL if issubclass(error, ReplyError)]

TRANSIENT = Reply(451, (b"4.3.0 later",), EnhancedStatusCode(4, 3, 0))
PERMANENT = Reply(550, (b"5.1.1 no",), EnhancedStatusCode(5, 1, 1))


def test_the_tree_has_these_classes_with_these_bases() -> None:
    assert {name for name, value in vars(errors).items() if isinstance(value, type)} >= {e.__name__ for e in ALL}
    assert set(errors.__all__) == {error.__name__ for error in ALL}
    assert {error: error.__bases__ for error in ALL} == TREE


def test_the_tree_is_drawn_in_the_docstring_of_its_module() -> None:
    assert errors.__doc__ is not None
    for error in ALL:
        assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("error", ALL)
def test_catching_the_root_catches_all(error: type[SMTPError]) -> None:
    with pytest.raises(SMTPError, match=r"^server said no$"):
        raise error("server said no")


@pytest.mark.parametrize("error", ALL)
def test_args_are_the_message_alone_and_the_rest_is_optional(error: type[SMTPError]) -> None:
    raised = error("server said no")
    assert raised.args == ("server said no",)
    assert str(raised) == "server said no"
    assert (raised.phase, raised.reply) == (None, None)
    assert (raised.accepted, raised.refused, raised.unknown, raised.not_sent) == ((), {}, (), ())
    assert raised.transcript == ()
    assert isinstance(raised.__dict__, dict)  # plain classes without slots: a caller may add a note of its own


@pytest.mark.parametrize("error", [error for error in ALL if issubclass(error, OSError)])
def test_a_transport_error_has_no_errno(error: type[TransportError]) -> None:
    assert error("lost").errno is None


def full(error: type[SMTPError]) -> SMTPError:
    raised = error(
        "server said no",
        phase="rcpt",
        accepted=["a@x.example"],
        refused={"b@x.example": PERMANENT},
        unknown=["c@x.example"],
        not_sent=["d@x.example"],
        reply=TRANSIENT,
        transcript=["> MAIL", "< 451"],
    )
    if isinstance(raised, ReplyError):
        raised.command = "RCPT TO:<b@x.example>"
    if isinstance(raised, SenderRefused):
        raised.sender = "me@x.example"
    if isinstance(raised, ExtensionRequired):
        raised.keyword = "SMTPUTF8"
    return raised


def by_pickle(error: SMTPError) -> object:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize("round_trip", [by_pickle, copy.copy, copy.deepcopy])
def test_pickle_and_copy_keep_every_attribute(
    error: type[SMTPError], round_trip: Callable[[SMTPError], object]
) -> None:
    before = full(error)
    after = round_trip(before)
    assert type(after) is error
    assert after is not before
    assert after.args == before.args
    assert vars(after) == vars(before)
    assert vars(after)["accepted"] == ("a@x.example",)
    assert vars(after)["refused"] == {"b@x.example": PERMANENT}
    assert vars(after)["transcript"] == ("> MAIL", "< 451")


def test_an_error_keeps_copies_of_what_it_is_given() -> None:
    accepted, refused = ["a@x.example"], {"b@x.example": PERMANENT}
    raised = SMTPError("no", accepted=accepted, refused=refused)
    accepted.clear()
    refused.clear()
    assert raised.accepted == ("a@x.example",)
    assert raised.refused == {"b@x.example": PERMANENT}


@pytest.mark.parametrize("error", REPLY_ERRORS)
def test_a_reply_error_carries_command_and_reply(error: type[ReplyError]) -> None:
    raised = error("server said no", command="DATA", reply=PERMANENT)
    assert (raised.command, raised.reply) == ("DATA", PERMANENT)


@pytest.mark.parametrize("error", ALL)
def test_a_misspelt_detail_is_a_type_error(error: type[SMTPError]) -> None:
    with pytest.raises(TypeError, match="acepted"):
        error("no", acepted=["a@x.example"])  # type: ignore[call-arg]  # misspelt on purpose


def test_the_types_of_the_details_are_those_of_the_root() -> None:
    """A detail that the root learns is one that a reply error can be given, too."""
    parameters = inspect.signature(SMTPError).parameters.values()
    details = {name.name: name.annotation for name in parameters if name.kind is inspect.Parameter.KEYWORD_ONLY}
    typed = errors._Details.__annotations__
    assert typed.keys() == details.keys()
    assert {name: detail.__forward_arg__ for name, detail in typed.items()} == details


def test_sender_and_keyword_are_empty_unless_set() -> None:
    assert SenderRefused("no").sender == ""
    assert ExtensionRequired("no").keyword == ""


@pytest.mark.parametrize("error", ALL)
def test_delivered_is_none_if_anybody_is_unknown_else_whether_anybody_was_accepted(error: type[SMTPError]) -> None:
    assert error("no").delivered is False
    assert error("no", not_sent=["a@x.example"]).delivered is False
    assert error("no", unknown=["a@x.example"], not_sent=["b@x.example"]).delivered is None
    assert error("no", accepted=["a@x.example"]).delivered is True
    assert error("no", accepted=["a@x.example"], unknown=["b@x.example"]).delivered is None


ALWAYS: list[type[SMTPError]] = [TransportError, ConnectError, ConnectionLost, SMTPTimeout]
NEVER: list[type[SMTPError]] = [
    SMTPError,
    ConfigurationError,
    MessageError,
    ProtocolError,
    LocalProtocolError,
    RemoteProtocolError,
    ExtensionRequired,
    DeliveryUnknown,
    TokenError,  # unless it says is_transient
]
BY_REPLY: list[type[SMTPError]] = [
    ReplyError,
    ServiceUnavailable,
    AuthenticationError,
    SenderRefused,
    MessageRefused,
    TLSError,
]


def test_the_retryable_table_names_every_error() -> None:
    assert {*ALWAYS, *NEVER, *BY_REPLY, RecipientsRefused} == set(ALL)


@pytest.mark.parametrize("reply", [None, TRANSIENT, PERMANENT])
@pytest.mark.parametrize("error", ALL)
def test_retryable_is_true_only_for_4yz_a_lost_connection_or_a_timeout(
    error: type[SMTPError], reply: Reply | None
) -> None:
    expected = error in ALWAYS or (error in BY_REPLY and reply is TRANSIENT)
    assert error("no", reply=reply).retryable is expected


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize("field", ["accepted", "unknown"])
def test_retryable_is_false_where_a_retry_could_duplicate(error: type[SMTPError], field: str) -> None:
    raised = full(error)
    raised.accepted = raised.unknown = ()
    raised.refused = {"a@x.example": TRANSIENT}
    assert raised.retryable is (error not in NEVER)
    setattr(raised, field, ("b@x.example",))
    assert raised.retryable is False


@pytest.mark.parametrize(
    ("refused", "expected"),
    [((), False), ((PERMANENT,), False), ((TRANSIENT,), True), ((PERMANENT, TRANSIENT), True)],
)
def test_recipients_refused_is_retryable_if_one_of_them_got_4yz(refused: tuple[Reply, ...], expected: bool) -> None:
    # Its own reply, the first, does not count.
    raised = RecipientsRefused("no", reply=PERMANENT, refused={f"u{n}@x.example": r for n, r in enumerate(refused)})
    assert raised.retryable is expected
