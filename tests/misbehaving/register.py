"""Where is R7 held? Where CVE-2026-53533? Each rule and each advisory, and the tests that hold it.

`test_register.py` fails if a test that stands here does not exist, was not collected, or does not name what it holds:
in its own name, in its docstring, or in the id of one of its parameters.

A name is ``module::test``, without the ``test_`` of both; of another folder, from ``tests/`` on, in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ADVISORIES", "HELD", "RULES"]

_SINK: Final = "interop/test_smtp_sink.py::"

#: The rules for reliability and security.
RULES: Final[Mapping[str, tuple[str, ...]]] = {
    # Outcomes
    "R1": (
        "r01_outcomes::each_fault_at_each_phase_has_one_certain_outcome",
        "r01_outcomes::the_error_says_in_which_phase_it_happened",
        "r01_outcomes::silence_at_each_phase_ends_at_its_deadline",
        "r01_outcomes::each_of_several_recipients_has_its_own_outcome",
        "r01_outcomes::lmtp_has_a_verdict_for_each_recipient",
        "r01_outcomes::a_recipient_named_twice_is_reported_twice",
        "r01_outcomes::a_message_is_handed_over_with_its_last_octet_and_not_before",
        "r01_outcomes::a_cut_in_the_bulk_is_certain_however_often",
        "bdat::a_window_that_ends_gives_each_message_its_true_outcome",
        _SINK + "test_a_reply_that_comes_too_late",
    ),
    "R2": (
        "r02_final_reply::what_comes_behind_a_250_changes_nothing",
        "r02_final_reply::what_comes_behind_a_refusal_changes_nothing_either",
        "r02_final_reply::a_quit_that_goes_wrong_turns_nothing_into_an_error",
        "r02_final_reply::many_quits_that_stall_are_waited_for_together",
        "r02_final_reply::a_verdict_is_not_waited_for_to_be_followed_by_anything",
        "r02_final_reply::the_reset_of_a_server_that_said_250_and_died_is_no_error",
        _SINK + "test_a_quit_that_is_answered_late_is_not_waited_for",
    ),
    "R3": (
        "r03_early_replies::a_reply_in_the_same_segment_as_the_354",
        "r03_early_replies::a_reply_while_the_content_is_written",
        "r03_early_replies::a_reply_that_began_before_the_dot_is_waited_for_before_it",
        "r03_early_replies::a_verdict_for_a_message_before_its_mail_is_none",
        "r03_early_replies::every_reply_shifted_by_one_delivers_nothing_falsely",
        "r03_early_replies::a_group_answered_with_a_wrong_number_of_replies",
        _SINK + "test_a_refusal_before_the_dot_is_read_though_nobody_reads_the_content",
    ),
    "R4": (
        "r04_no_content::a_354_for_nobody_is_left_without_a_dot",
        "r04_no_content::the_answer_to_a_lone_dot_means_nothing",
        "r04_no_content::a_lone_dot_that_is_never_answered",
        "r04_no_content::where_data_is_refused_not_one_octet_of_content_is_sent",
        "r04_no_content::with_require_all_one_refusal_is_enough_to_send_nothing",
        "r04_no_content::a_reply_of_another_class_breaks_the_protocol",
        "r04_no_content::a_421_ends_the_group_whatever_follows_it",
    ),
    # Replies
    "R5": (
        "r05_grammar::an_odd_reply_that_is_one_counts_by_its_first_digit",
        "r05_grammar::a_refusal_is_one_whatever_its_second_digit",
        "r05_grammar::a_line_that_is_no_reply_ends_the_connection",
        "r05_grammar::the_same_dialogue_octet_by_octet",
        "r05_grammar::the_same_dialogue_at_every_cut",
        "r05_grammar::the_end_at_every_octet",
    ),
    "R6": (
        "r06_limits::up_to_the_limit_it_is_a_reply",
        "r06_limits::one_octet_beyond_the_limit_it_is_an_attack",
        "r06_limits::challenges_have_a_limit_in_size_and_in_number",
        "exhaustion::what_never_ends_is_ended",
        "exhaustion::capabilities_by_the_thousand",
        "exhaustion::a_reply_within_its_limits_costs_no_time",
        "exhaustion::a_reply_in_single_octets_costs_linear_time",
        "exhaustion::a_flood_between_messages_is_not_even_read",
        "exhaustion::a_flood_during_quit",
        "exhaustion::challenges_without_end",
    ),
    "R7": (
        "r07_deadlines::a_reply_that_drips_does_not_move_its_deadline",
        "r07_deadlines::one_octet_every_quarter_of_a_second",
        "r07_deadlines::each_reply_of_a_group_has_its_own_deadline_and_no_more",
        "r07_deadlines::the_limit_for_the_whole_call_holds_over_all_replies",
        "r07_deadlines::what_time_leaves_is_judged_by_what_was_handed_over",
        "r07_deadlines::content_that_nobody_takes",
        "r07_deadlines::content_that_is_taken_octet_by_octet",
        "r07_deadlines::content_that_is_taken_slowly_but_taken_arrives",
        "r07_deadlines::a_handshake_that_drips",
        "r01_outcomes::silence_at_each_phase_ends_at_its_deadline",
        "bdat::a_window_whose_verdicts_never_come",
        _SINK + "test_content_that_is_not_read_in_time_is_certainly_not_sent",
    ),
    "R8": (
        "r08_idle::what_arrives_in_the_pool_takes_the_connection_out_of_use",
        "r08_idle::a_clear_record_inside_tls_takes_the_connection_out_of_use",
        "r08_idle::before_every_command_it_is_looked_for",
        "r08_idle::a_connection_that_check_left_idle_is_looked_at_too",
    ),
    # The life of a connection
    "R9": (
        "r01_outcomes::each_fault_at_each_phase_has_one_certain_outcome",
        "r09_r10_poison::a_refusal_leaves_the_connection_in_use",
        "r09_r10_poison::a_reset_that_fails_ends_the_connection",
        "r09_r10_poison::a_send_that_is_cancelled_poisons_its_connection",
        "r09_r10_poison::after_a_timeout_no_stale_reply_is_read",
        "desync::errors_of_all_kinds_leave_the_pool_as_large_as_it_was",
    ),
    "R10": (
        "r09_r10_poison::a_send_that_is_cancelled_poisons_its_connection",
        "r09_r10_poison::a_reply_and_a_cancellation_at_the_same_moment",
        "r09_r10_poison::cancelled_at_every_turn_of_the_event_loop",
        "r09_r10_poison::cancelled_while_others_wait_for_the_connection",
        "desync::many_at_once_some_of_whom_give_up",
    ),
    "R11": (
        "r11_r12_reuse::a_connection_that_died_while_it_was_idle_is_replaced",
        "r11_r12_reuse::nothing_else_is_sent_again",
        "r11_r12_reuse::on_a_new_connection_it_is_an_error",
        "r11_r12_reuse::the_second_try_is_the_last",
        "r11_r12_reuse::many_connections_that_died_cost_one_try_all_the_same",
        "r11_r12_reuse::a_server_that_always_speaks_before_mail_is_not_asked_for_ever",
        "bdat::a_server_that_ends_every_connection_is_not_asked_for_ever",
        _SINK + "test_rset_that_disconnects_costs_nothing",
    ),
    "R12": (
        "r11_r12_reuse::a_connection_whose_set_up_failed_is_never_used",
        "r11_r12_reuse::a_server_that_knows_helo_only_and_refuses_it",
        "starttls::a_handshake_that_fails_is_not_gone_on_from",
    ),
    # TLS and authentication
    "R13": (
        "starttls::an_octet_behind_the_220_is_an_attack",
        "starttls::octets_in_clear_during_the_handshake_end_it",
        "starttls::a_server_that_ignores_the_ehlo_inside_tls",
        "starttls::a_220_that_was_there_before_the_command_is_not_its_answer",
        "starttls::what_was_offered_in_clear_is_forgotten",
        "starttls::the_limits_of_the_clear_do_not_hold_inside",
        "starttls::nothing_is_written_behind_starttls",
    ),
    "R14": (
        "starttls::without_tls_nothing_is_sent",
        "starttls::every_odd_code_at_every_command",
        "starttls::a_server_with_a_wrong_certificate_hears_nothing_more",
        "starttls::no_option_is_needed_to_have_the_certificate_verified",
        "starttls::the_name_is_the_one_that_the_user_gave",
        "starttls::tls_is_required_wherever_it_is_not_waived",
        "starttls::a_unix_socket_and_lmtp_on_loopback_need_none",
        _SINK + "test_without_starttls_nothing_is_sent",
    ),
    "R15": (
        "auth::in_clear_nobody_authenticates",
        "auth::a_unix_socket_is_no_place_to_listen",
        "auth::the_order_is_the_clients_and_a_no_is_a_no",
        "auth::what_is_not_this_one_is_not_no",
        "auth::with_credentials_it_is_never_unauthenticated",
        _SINK + "test_without_auth_nothing_is_sent_unauthenticated",
    ),
    "R16": (
        "auth::only_a_235_is_success",
        "auth::success_before_login_asked_for_the_password_is_none",
        "auth::a_server_that_does_not_know_the_password_is_not_believed",
        "auth::a_first_message_of_scram_that_is_not_acceptable",
        "auth::what_is_said_to_the_cancellation_changes_nothing",
        "auth::an_error_challenge_is_acknowledged_and_the_verdict_read",
        _SINK + "test_a_250_to_auth_is_no_success",
    ),
    "R17": (
        "auth::a_secret_is_seen_nowhere",
        "auth::a_secret_in_a_url_is_seen_nowhere_either",
        "auth::the_content_is_seen_nowhere",
    ),
    # Input
    "R18": (
        "command_injection::r18_an_address_with_what_ends_it_is_refused",
        "command_injection::within_quotes_it_is_refused_or_sent_as_it_is",
        "command_injection::r18_a_parameter_of_mail_ends_nothing",
        "command_injection::r18_a_parameter_of_rcpt_ends_nothing",
        "command_injection::r18_the_name_in_ehlo_is_a_domain",
        "command_injection::r18_the_name_that_the_system_gives_us_is_not_trusted_either",
        "command_injection::a_line_break_in_a_header_value_is_refused",
        "command_injection::a_header_name_is_one",
        "command_injection::a_host_name_is_resolved_as_it_is_or_refused",
        "command_injection::a_url_breaks_out_of_nothing",
        "command_injection::credentials_of_a_url_are_base64_or_refused",
        "command_injection::credentials_are_base64_or_refused",
        "command_injection::the_name_of_a_mechanism_is_one",
        "command_injection::a_command_of_the_callers_own_is_one_line",
        "command_injection::a_session_of_the_callers_own_writes_whole_commands_alone",
        "command_injection::of_many_messages_the_wrong_ones_alone_are_refused",
    ),
    "R19": (
        "command_injection::r19_an_address_is_parsed_or_refused_and_never_rewritten",
        "command_injection::r19_an_address_is_not_made_a_shorter_one",
        "command_injection::r19_a_str_is_one_recipient",
        "command_injection::r19_of_a_domain_alone_the_form_changes",
        "email_package::who_receives_stands_literally_in_the_header",
    ),
    "R20": (
        "command_injection::everything_is_checked_before_the_first_octet",
        "command_injection::the_message_is_checked_before_the_first_octet",
        "command_injection::what_is_not_offered_is_said_before_mail",
    ),
    "R21": (
        "smuggling::octets",
        "smuggling::message_objects",
        "smuggling::streams",
        "smuggling::every_text_of_up_to_four_octets",
        "smuggling::texts_of_many_ends",
        "smuggling::a_dot_at_the_border_of_two_pieces",
        "smuggling::content_of_dots",
        "smuggling::the_end_of_data_stands_on_a_line_of_its_own",
        "smuggling::what_no_server_may_get_is_refused",
        "smuggling::a_nul_in_a_message_object_is_refused_or_encoded",
        "bdat::in_chunks_no_dot_is_doubled_and_no_line_end_is_bare",
    ),
    "R22": (
        "email_package::no_header_comes_out_of_another_one",
        "email_package::a_blind_copy_is_sent_and_not_told",
        "email_package::a_blind_copy_in_octets_is_refused",
        "command_injection::a_line_break_in_a_header_value_is_refused",
    ),
    "R23": (
        "bdat::chunks_are_opt_in",
        "bdat::each_connection_proves_that_it_swallows_chunks",
        "bdat::where_the_proof_fails_everything_goes_by_data",
        "bdat::a_proof_that_is_cut_off",
        "bdat::a_proof_whose_reset_fails_is_none",
        "bdat::content_that_could_be_refused_for_its_size_goes_by_data",
        "bdat::every_mail_behind_an_owed_verdict_has_rset_in_front",
        "bdat::behind_a_dot_none_is_needed",
        "bdat::a_refused_sender_in_a_window_costs_no_other_message",
        "bdat::a_verdict_of_2yz_for_a_refused_sender_is_none",
        "command_injection::a_parameter_that_is_the_clients_own_is_not_the_callers",
        "command_injection::a_command_that_changes_the_count_is_not_the_callers",
    ),
    "R24": (
        "r24_failed_writes::a_refusal_in_the_middle_of_content_is_the_error",
        "r24_failed_writes::small_content_refused_before_it_was_read",
        "r24_failed_writes::a_refusal_while_a_large_group_is_written_is_the_error",
        "r24_failed_writes::what_was_said_before_the_command_that_could_not_be_written",
        "r24_failed_writes::a_verdict_that_came_before_the_end_counts",
        "r03_early_replies::a_reply_while_the_content_is_written",
        _SINK + "test_the_same_with_content_that_fits_into_one_write",
    ),
    # Found by attacking the first version
    "R28": (
        "auth::whatever_a_server_says_to_auth_it_is_quoted_without_the_secret",
        "auth::of_a_text_that_could_hold_a_short_secret_nothing_is_shown",
        "auth::what_a_server_says_about_a_token_does_not_repeat_it",
        "protocol/test_redaction.py::test_where_a_short_secret_could_stand_the_text_is_left_out_whole",
    ),
    "R29": ("client/test_tls.py::test_requiretls_needs_certificate_and_name_verified",),
    "R30": (
        "client/test_tls.py::test_a_server_that_leaves_during_the_handshake_is_a_lost_connection",
        "client/test_tls.py::test_a_connection_lost_in_the_handshake",
        "client/test_tls.py::test_a_server_that_wants_a_client_certificate",
        "client/test_tls.py::test_an_alert_before_the_hand_over_is_a_failure_of_tls",
        "client/test_tls.py::test_an_alert_behind_the_hand_over_is_the_cause_of_delivery_unknown",
        "client/test_tls.py::test_an_alert_in_a_stream_of_messages",
        "client/test_tls.py::test_an_alert_of_a_stream_of_the_users_own_tls",
    ),
    "R33": (
        "options/test_arguments.py::test_an_argument_that_is_nonsense_is_taken_or_named",
        "options/test_arguments.py::test_what_looks_like_a_host_says_what_to_write_instead",
        "options/test_arguments.py::test_what_connect_returns_and_raises",
        "options/test_arguments.py::test_what_a_token_callback_returns_and_raises",
        "options/test_arguments.py::test_what_a_rate_limit_returns_and_raises",
        "options/test_arguments.py::test_what_sign_returns_and_raises",
        "options/test_arguments.py::test_what_trace_raises_changes_nothing",
        "options/test_arguments.py::test_what_a_mechanism_of_the_users_own_gives",
    ),
}

_ADDRESS: Final = ("command_injection::r18_an_address_with_what_ends_it_is_refused",)
_AS_FOUND: Final = ("command_injection::r19_an_address_is_parsed_or_refused_and_never_rewritten",)
_QUOTED: Final = ("command_injection::within_quotes_it_is_refused_or_sent_as_it_is",)
_PROGRAM: Final = ("command_injection::an_address_is_no_argument_of_a_program",)
_RAW_ARGUMENT: Final = ("command_injection::a_command_of_the_callers_own_is_one_line",)
_BEHIND_220: Final = ("starttls::an_octet_behind_the_220_is_an_attack",)
_NO_TLS: Final = ("starttls::without_tls_nothing_is_sent",)
_ODD_CODES: Final = ("starttls::every_odd_code_at_every_command",)
_CERTIFICATE: Final = ("starttls::a_server_with_a_wrong_certificate_hears_nothing_more",)
_VERIFIED: Final = ("starttls::no_option_is_needed_to_have_the_certificate_verified",)
_OCTETS: Final = ("smuggling::octets",)
_ENDLESS: Final = ("exhaustion::what_never_ends_is_ended",)
_STALE: Final = ("desync::after_a_timeout_no_command_reads_the_stale_reply",)
_ANOTHERS: Final = ("desync::the_next_one_never_reads_the_reply_of_who_was_cancelled",)
_HEADER: Final = ("email_package::no_header_comes_out_of_another_one",)
_IN_HEADERS: Final = ("email_package::who_receives_stands_literally_in_the_header",)

#: What befell others who broke a rule.
ADVISORIES: Final[Mapping[str, tuple[str, ...]]] = {
    # Commands and parameters out of arguments
    "CVE-2026-53533": (*_ADDRESS, *_RAW_ARGUMENT),
    "GHSA-v3q9-hj7j-63hq": _ADDRESS,
    "aiosmtplib 5.1.3": (*_AS_FOUND, "command_injection::r18_the_name_in_ehlo_is_a_domain"),
    "bpo-43124": _ADDRESS,
    "gh-87290": _ADDRESS,
    "CVE-2025-59937": (*_QUOTED, *_AS_FOUND),
    "GHSA-wpwj-69cm-q9c5": (*_QUOTED, *_AS_FOUND),
    "CVE-2026-30227": (*_QUOTED, *_AS_FOUND),
    "GHSA-g7hc-96xr-gvvx": (*_QUOTED, *_AS_FOUND),
    "CVE-2026-32178": (*_AS_FOUND, "email_package::an_address_object_with_a_line_break"),
    "CVE-2025-7962": (*_AS_FOUND, "command_injection::r19_of_a_domain_alone_the_form_changes"),
    "GHSA-c7w3-x93f-qmm8": ("command_injection::a_parameter_that_is_the_clients_own_is_not_the_callers",),
    "GHSA-vvjj-xcjg-gr5g": ("command_injection::r18_the_name_in_ehlo_is_a_domain",),
    "GHSA-268h-hp4c-crq3": ("command_injection::a_line_break_in_a_header_value_is_refused",),
    "nodemailer 6347b47": ("command_injection::a_host_name_is_resolved_as_it_is_or_refused",),
    "smtp-connection#31": _AS_FOUND,
    "CVE-2026-48019": (*_QUOTED, *_AS_FOUND),
    "CVE-2015-8476": (*_ADDRESS, *_AS_FOUND),
    "CVE-2016-10033": _PROGRAM,
    "CVE-2016-10045": _PROGRAM,
    "CVE-2016-10074": _PROGRAM,
    "CVE-2015-9096": (*_ADDRESS, *_AS_FOUND),
    "OSVDB-131677": (*_ADDRESS, *_AS_FOUND),
    "MBSD FWS": _AS_FOUND,
    "MBSD CRLF-less": _AS_FOUND,
    "RUSTSEC-2020-0069": _PROGRAM,
    "RUSTSEC-2021-0069": _OCTETS,
    "CVE-2021-38189": _OCTETS,
    "async-smtp #49": _OCTETS,
    "curl RCPT suffix": _AS_FOUND,
    "curl test3227": _AS_FOUND,
    "CVE-2018-0500": ("smuggling::content_of_dots",),
    "CVE-2019-3823": ("exhaustion::a_line_shorter_than_a_code",),
    "CVE-2026-28753": ("command_injection::r18_the_name_that_the_system_gives_us_is_not_trusted_either",),
    "CVE-2026-42257": _RAW_ARGUMENT,
    "CVE-2026-47240": _RAW_ARGUMENT,
    "CVE-2026-47241": _RAW_ARGUMENT,
    "CVE-2026-47242": _RAW_ARGUMENT,
    "CloudMeet#42": _OCTETS,
    "F3#416": ("starttls::a_handshake_that_fails_is_not_gone_on_from",),
    # STARTTLS
    "EAST Buffering/B_1": (*_BEHIND_220, "starttls::a_server_that_ignores_the_ehlo_inside_tls"),
    "EAST Negotiation/D_1": _NO_TLS,
    "EAST Negotiation/O_1": _NO_TLS,
    "EAST Negotiation/O_2": _NO_TLS,
    "EAST Negotiation/O_3": _NO_TLS,
    "EAST Negotiation/O_4": _NO_TLS,
    "EAST others/X_1": ("starttls::64_odd_mechanisms_offered_in_clear",),
    "EAST others/greeting": _ODD_CODES,
    "EAST others/ehlo": _ODD_CODES,
    "EAST others/helo": (*_ODD_CODES, "starttls::every_odd_code_to_helo_in_clear"),
    "EAST others/quit": _ODD_CODES,
    "EAST others/rset": _ODD_CODES,
    "EAST others/starttls": _ODD_CODES,
    "EAST T_1": _CERTIFICATE,
    "EAST T_2": _CERTIFICATE,
    "EAST T_3": _CERTIFICATE,
    "EAST T_4": _CERTIFICATE,
    "CVE-2016-0772": _NO_TLS,
    "CVE-2026-41319": (
        *_BEHIND_220,
        "starttls::what_was_offered_in_clear_is_forgotten",
        "auth::the_order_is_the_clients_and_a_no_is_a_no",
    ),
    "GHSA-vxj7-4xrp-5vr4": _BEHIND_220,
    "nodemailer #1835": (
        *_BEHIND_220,
        "starttls::an_implicit_handshake_comes_first_on_a_stream_of_the_users_own",
    ),
    "CVE-2021-22946": (*_NO_TLS, "starttls::what_was_offered_in_clear_is_forgotten"),
    "CVE-2021-22947": _BEHIND_220,
    "CVE-2026-42246": ("starttls::a_220_that_was_there_before_the_command_is_not_its_answer",),
    "CVE-2026-7666": ("r11_r12_reuse::a_connection_whose_set_up_failed_is_never_used",),
    "libetpan #386": _BEHIND_220,
    "CVE-2011-0411": ("starttls::nothing_is_written_behind_starttls",),
    "CVE-2024-34083": ("starttls::nothing_is_written_behind_starttls",),
    "CVE-2026-41132": _VERIFIED,
    "CVE-2026-41016": _VERIFIED,
    "CVE-2026-49267": _VERIFIED,
    "GHSA-r7g4-qg5f-qqm2": _VERIFIED,
    # Secrets
    "emailjs #339": ("auth::a_secret_is_seen_nowhere",),
    "aiosmtpd #233": ("auth::a_secret_is_seen_nowhere",),
    "postal #1308": ("auth::a_secret_is_seen_nowhere",),
    "go-mail #338": ("auth::a_secret_is_seen_nowhere",),
    # Smuggling
    "VU#302671": (*_OCTETS, "smuggling::message_objects", "smuggling::streams"),
    "CVE-2023-51764": (*_OCTETS, "smuggling::message_objects", "smuggling::streams"),
    "CVE-2023-51765": (*_OCTETS, "smuggling::message_objects", "smuggling::streams"),
    "CVE-2023-51766": (*_OCTETS, "smuggling::message_objects", "smuggling::streams"),
    "CVE-2023-51747": (*_OCTETS, "smuggling::message_objects", "smuggling::streams"),
    "mail-send 0.4.4": _OCTETS,
    # Exhaustion
    "lettre #1143": _ENDLESS,
    "aiosmtplib 5.1.2": (*_ENDLESS, *_STALE),
    ".NET #131596": _ENDLESS,
    "go-smtp #80": _ENDLESS,
    "CVE-2013-1752": _ENDLESS,
    "tinymux#1802": _ENDLESS,
    "CVE-2020-8794": ("exhaustion::a_line_shorter_than_a_code",),
    "GHSA-9h6g-pr28-7cqp": ("exhaustion::an_address_field_of_no_depth_crashes_the_parser",),
    "SCRAM i=2^31": ("auth::a_first_message_of_scram_that_is_not_acceptable",),
    # Desync
    "CVE-2023-28858": _ANOTHERS,
    "CVE-2023-28859": _ANOTHERS,
    "Symfony #54169": _STALE,
    "Symfony #65352": _STALE,
    "aiosmtplib #15": _STALE,
    "aiosmtplib 320180e": ("desync::a_line_that_nobody_asked_for_shifts_no_reply",),
    "aiosmtplib cancellation": _ANOTHERS,
    "httpcore #830": ("desync::cancelled_while_it_waits_for_a_place",),
    "httpcore #1093": ("desync::cancelled_while_it_connects",),
    "httpcore #1099": ("desync::cancelled_while_it_is_set_up",),
    # The email package
    "CVE-2019-16056": (*_AS_FOUND, *_IN_HEADERS),
    "CVE-2023-27043": (*_AS_FOUND, *_IN_HEADERS),
    "CVE-2024-6923": _HEADER,
    "CVE-2026-1299": _HEADER,
    # BDAT, and what is written ahead
    "go-smtp #315": ("bdat::where_the_proof_fails_everything_goes_by_data",),
    "530 to BDAT": ("bdat::where_the_proof_fails_everything_goes_by_data",),
    "Dovecot submission": ("bdat::a_server_that_wants_authentication_first_executes_nothing",),
    "Exim, over its size limit": ("bdat::content_that_could_be_refused_for_its_size_goes_by_data",),
    "CVE-2026-45185": ("bdat::a_chunk_that_is_given_up_is_given_up_without_a_word",),
    "MailKit #1459": ("r04_no_content::with_require_all_one_refusal_is_enough_to_send_nothing",),
}

HELD: Final[Mapping[str, tuple[str, ...]]] = {**RULES, **ADVISORIES}
