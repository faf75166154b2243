"""The guards of who leads, who follows and what counts as confirmed. Each has its own transcript in tests/core."""

from tests.simulation.guard import Guard

FOLLOWER = "replication/core/follower.py"
ELECTION = "replication/core/election.py"
ELIGIBILITY = "replication/core/eligibility.py"
STREAMS = "replication/core/streams.py"
COMMIT = "replication/core/commit.py"
ROLES = "replication/core/roles.py"

CONFIRMING = "tests/core/test_guards_leader.py::"
FOLLOWING = "tests/core/test_guards_follower.py::"
STANDING = "tests/core/test_guards_election.py::"
LATE = "tests/core/test_late_elections.py::"
MENDING = "tests/simulation/test_mending.py::"
ROLLED_BACK = "tests/core/test_guards_rolled_back.py::"

REPLICATION_GUARDS = (
    Guard(
        "current-epoch rule",
        COMMIT,
        "    return reached if reached >= epoch_record else 0\n",
        "    return reached\n",
        shown_by=CONFIRMING + "test_what_an_older_epoch_left_is_not_committed_before_the_new_epoch_is",
    ),
    Guard(
        "a confirmation's chain is ours",
        STREAMS,
        "if point.sequence < stream.confirmed.sequence or not situation.ledger.holds(point):",
        "if point.sequence < stream.confirmed.sequence:",
        shown_by=CONFIRMING + "test_a_confirmation_of_another_record_at_the_same_place_is_none",
    ),
    Guard(
        "a confirmation is of this epoch",
        STREAMS,
        "        if message.epoch != self._epoch or stream.stage is not Stage.STREAMING:\n",
        "        if stream.stage is not Stage.STREAMING:\n",
        shown_by=CONFIRMING + "test_a_late_confirmation_of_an_older_epoch_neither_counts_nor_ends_a_stream",
    ),
    Guard(
        "a confirmation dies with its stream",
        STREAMS,
        "        stream.stage, stream.confirmed, stream.leaving = Stage.OPENING, GENESIS, False\n",
        "        stream.stage, stream.leaving = Stage.OPENING, False\n",
        shown_by=CONFIRMING + "test_what_a_follower_confirmed_does_not_count_any_more_when_it_begins_anew",
    ),
    Guard(
        "who lacks a commit leaves the set before it is fed",
        STREAMS,
        "Stage.REMOVING if stream.common.sequence < situation.told.sequence else Stage.ALIGNING\n",
        "Stage.ALIGNING\n",
        shown_by=ROLLED_BACK + "test_a_member_that_lacks_commits_is_out_of_the_set_before_it_is_fed",
    ),
    Guard(
        "a leader that lacks a follower's commit does not lead",
        STREAMS,
        "        if not situation.ledger.holds(told):\n",
        "        if False:\n",
        shown_by=ROLLED_BACK + "test_a_leader_that_lacks_what_a_follower_knows_to_be_committed_gives_up_the_lead",
    ),
    Guard(
        "epoch refusal",
        FOLLOWER,
        "        if message.epoch < situation.wanted_promise:\n            self._reject(link, message.epoch",
        "        if False:\n            self._reject(link, message.epoch",
        shown_by=FOLLOWING + "test_a_late_call_of_a_deposed_leader_takes_no_follower_away_from_its_successor",
    ),
    Guard(
        "records of an older epoch are refused",
        FOLLOWER,
        "if stream is None or (stream.link, stream.epoch) != (link, epoch) or self._situation.wanted_promise > epoch:",
        "if stream is None or (stream.link, stream.epoch) != (link, epoch):",
        shown_by=FOLLOWING + "test_a_deposed_leader_neither_adds_to_a_log_nor_cuts_it",
    ),
    Guard(
        "what is cut is the log that was shown",
        FOLLOWER,
        "if message.end is not None and message.end.log_point() != situation.ledger.end:\n",
        "if False:\n",
        shown_by=FOLLOWING + "test_a_log_that_grew_since_it_was_shown_is_not_cut_by_the_answer",
    ),
    Guard(
        "the wait after a reboot goes on",
        ELECTION,
        "situation.waited_ms += situation.now_ms - self._waiting_ms\n",
        "situation.waited_ms = situation.now_ms - self._waiting_ms\n",
        shown_by=STANDING + "test_leads_in_vain_of_others_do_not_begin_the_wait_after_a_reboot_anew",
    ),
    Guard(
        "the promise is on disk before anything is confirmed",
        FOLLOWER,
        "if situation.wanted_promise != stream.epoch or situation.promise != stream.epoch:",
        "if situation.wanted_promise != stream.epoch:",
        needless="nobody is followed in an epoch whose promise is not on the disk yet, and a promise never falls",
    ),
    Guard(
        "the promise is on disk before a leader is followed",
        FOLLOWER,
        "        if not situation.admitted or situation.promise < message.epoch or self.working:\n",
        "        if not situation.admitted or self.working:\n",
        shown_by=FOLLOWING + "test_a_leader_is_answered_only_when_its_epoch_is_on_the_disk",
    ),
    Guard(
        "nobody is followed before the state was read",
        FOLLOWER,
        "        if not situation.admitted or situation.promise < message.epoch or self.working:\n",
        "        if situation.promise < message.epoch or self.working:\n",
        shown_by=FOLLOWING + "test_who_calls_before_the_state_was_read_is_not_followed_before_it_is",
    ),
    Guard(
        "a record continues the log",
        FOLLOWER,
        "            and event.previous == situation.ledger.end\n",
        "",
        shown_by=FOLLOWING + "test_a_record_that_says_it_follows_on_something_else_is_refused",
    ),
    Guard(
        "a record's chain is proved",
        FOLLOWER,
        "            and situation.ledger.continued_by(event.header, event.chain)\n",
        "            and event.header.position.sequence == situation.ledger.end.sequence + 1\n",
        shown_by=FOLLOWING + "test_a_record_whose_header_was_altered_on_its_way_is_refused",
    ),
    Guard(
        "no cut below the commit point",
        FOLLOWER,
        "elif point != situation.ledger.end and point.sequence < situation.told.sequence:",
        "elif point != situation.ledger.end and point.sequence < 0:",
        shown_by=FOLLOWING + "test_a_follower_that_was_told_of_a_commit_freezes_rather_than_cut_it",
    ),
    Guard(
        "only an intact log leads",
        ELIGIBILITY,
        "    if not ledger.intact:\n",
        "    if False:\n",
        shown_by=STANDING + "test_who_knows_of_damage_in_its_log_does_not_lead",
    ),
    Guard(
        "a leader holds the floor",
        ELIGIBILITY,
        "    if not ledger.holds(state.floor):\n",
        "    if False:\n",
        shown_by=STANDING + "test_who_lacks_the_floor_of_the_cluster_does_not_lead",
    ),
    Guard(
        "a leader holds its own floor",
        ELIGIBILITY,
        "    if not ledger.holds(own_floor):\n",
        "    if False:\n",
        shown_by=STANDING + "test_who_lacks_what_it_knew_to_be_committed_does_not_lead",
    ),
    Guard(
        "nobody leads after lost history",
        ELIGIBILITY,
        "    if state.change.counter < counter:\n",
        "    if False:\n",
        shown_by=STANDING + "test_nobody_leads_after_the_coordination_service_went_back_to_an_older_set",
    ),
    Guard(
        "a longer tail is copied first",
        ELECTION,
        "        return [member for position, member in sorted(shown, reverse=True) if position > end]\n",
        "        return []\n",
        shown_by=STANDING + "test_a_candidate_copies_a_longer_tail_from_a_member_that_cannot_lead",
    ),
    Guard(
        "who stopped writing is copied from as well",
        ELECTION,
        "            if member in self.base.state.in_sync and not self._through_tier\n",
        "            if member in self.base.state.in_sync and not self._through_tier and answer.verified\n",
        shown_by=STANDING + "test_a_candidate_copies_a_longer_tail_from_a_member_that_stopped_writing",
    ),
    Guard(
        "who held more and went away is waited for",
        ELECTION,
        "        if not self.silent and not self._ahead():\n",
        "        if not self.silent:\n",
        shown_by=STANDING + "test_who_held_more_and_went_away_while_it_was_copied_from_is_waited_for",
    ),
    Guard(
        "silent members are asked again",
        ELECTION,
        "                self._ask()  # who was not there, or not admitted yet, may be by now\n",
        "                pass\n",
        shown_by=STANDING + "test_a_member_that_comes_while_a_candidate_waits_is_asked",
    ),
    Guard(
        "silent members are waited for after a start",
        ELECTION,
        "        return rebooted or situation.now_ms - situation.started_ms < MEETING_MS\n",
        "        return rebooted\n",
        shown_by=STANDING + "test_a_node_that_has_just_started_meets_the_members_of_the_set_before_it_stands",
    ),
    Guard(
        "an election is not taken up past a later promise",
        ROLES,
        "        return 0 < candidacy.epoch < self.situation.wanted_promise\n",
        "        return False\n",
        shown_by=LATE + "test_an_election_that_was_won_before_a_later_epoch_was_promised_is_not_taken_up",
    ),
    Guard(
        "a rebooted follower is settled by a commit of this epoch",
        FOLLOWER,
        "if committed.epoch == stream.epoch and situation.ledger.durable.sequence >= committed.sequence:",
        "if situation.ledger.durable.sequence >= committed.sequence:",
        shown_by=FOLLOWING
        + "test_a_rebooted_follower_is_not_settled_by_a_commit_that_proves_nothing[of-an-older-epoch]",
    ),
    Guard(
        "a rebooted follower is settled by a commit that it holds",
        FOLLOWER,
        "if committed.epoch == stream.epoch and situation.ledger.durable.sequence >= committed.sequence:",
        "if committed.epoch == stream.epoch:",
        shown_by=FOLLOWING + "test_a_rebooted_follower_is_not_settled_by_a_commit_that_proves_nothing[beyond-its-end]",
    ),
    Guard(
        "each repair of what is not committed has its own time",
        ROLES,
        "            self._stuck_since_ms = None  # what is found later has its own time\n",
        "            pass\n",
        shown_by="tests/core/test_damage.py::"
        "test_a_leader_waits_for_each_repair_of_what_is_not_committed_and_not_for_all_together",
    ),
    Guard(
        "a leader that cannot commit any more lets go",
        ROLES,
        "        if self._stuck_for_good():\n",
        "        if False:\n",
        shown_by=MENDING + "test_a_leader_that_cannot_feed_its_own_newest_record_lets_another_lead",
    ),
    Guard(
        "a lost attempt to put the leader's znode back is made again",
        "replication/core/leader.py",
        "        self._be_seen()\n        self.streams.ask_again()\n",
        "        self.streams.ask_again()\n",
        shown_by=CONFIRMING + "test_a_leader_whose_znode_is_gone_puts_it_back_though_the_first_attempt_is_lost",
    ),
)
