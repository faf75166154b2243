"""Every guard of the protocol, and how to take it away: the list that script/mutants walks through.

A mutant is one exact replacement in one source file; a guard that has moved is an error of this list.
"""

from tests.simulation.guard import Guard
from tests.simulation.guards_compacting import COMPACTING_GUARDS
from tests.simulation.guards_deletes import DELETE_GUARDS
from tests.simulation.guards_evicting import EVICTING_GUARDS
from tests.simulation.guards_log import LOG_GUARDS
from tests.simulation.guards_packing import PACKING_GUARDS
from tests.simulation.guards_reading import READING_GUARDS
from tests.simulation.guards_relearning import RELEARNING_GUARDS
from tests.simulation.guards_replication import REPLICATION_GUARDS
from tests.simulation.guards_rescue import RESCUE_GUARDS
from tests.simulation.guards_scrub import SCRUB_GUARDS
from tests.simulation.guards_standalone import STANDALONE_GUARDS
from tests.simulation.guards_tier import TIER_GUARDS

LEADER = "replication/core/leader.py"
FOLLOWER = "replication/core/follower.py"
ELECTION = "replication/core/election.py"
ELIGIBILITY = "replication/core/eligibility.py"
STREAMS = "replication/core/streams.py"
PROPOSALS = "replication/core/proposals.py"
WRITER = "replication/core/statewriter.py"
COMMIT = "replication/core/commit.py"
REPLICA = "replication/core/replica.py"
ROLES = "replication/core/roles.py"

COMMITTING = "tests/core/test_guards_commit.py::"
LEADING = "tests/core/test_guards_lead.py::"
ANSWERING = "tests/core/test_guards_answers.py::"
SCENARIOS = "tests/core/test_scenarios.py::"
TRAPS = "tests/simulation/test_traps.py::"

GUARDS = (
    *REPLICATION_GUARDS,
    *TIER_GUARDS,
    *PACKING_GUARDS,
    *EVICTING_GUARDS,
    *RELEARNING_GUARDS,
    *RESCUE_GUARDS,
    *SCRUB_GUARDS,
    *DELETE_GUARDS,
    *COMPACTING_GUARDS,
    *LOG_GUARDS,
    *READING_GUARDS,
    *STANDALONE_GUARDS,
    Guard(
        "maximal set: proposed members count",
        WRITER,
        "            members |= state.in_sync\n",
        "            members |= frozenset()\n",
        shown_by=TRAPS + "test_trap_13_an_addition_counts_before_it_is_confirmed",
    ),
    Guard(
        "maximal set: removed members count until it is confirmed",
        WRITER,
        "        members = self.confirmed.state.in_sync\n        for state in self._possible():\n"
        "            members |= state.in_sync\n",
        "        possible = self._possible()\n"
        "        members = possible[-1].in_sync if possible else self.confirmed.state.in_sync\n",
        shown_by=TRAPS + "test_trap_13_a_removal_counts_only_once_it_is_confirmed",
    ),
    Guard(
        "an unknown write may be applied",
        WRITER,
        "        self._unresolved.append(awaited.state)\n",
        "",
        shown_by=TRAPS + "test_trap_13_an_addition_counts_before_it_is_confirmed",
    ),
    Guard(
        "a cut that found no room is not waited for",
        FOLLOWER,
        'not under way."""\n        self.working = False\n',
        'not under way."""\n',
        shown_by="tests/core/test_guards_follower.py::"
        "test_a_cut_that_found_no_room_is_not_waited_for_once_there_is_room",
    ),
    Guard(
        "copies required",
        COMMIT,
        "    if in_sync_size < minimum_copies:\n",
        "    if in_sync_size < 0:\n",
        shown_by=COMMITTING + "test_one_copy_is_not_enough_though_the_set_names_nobody_else",
    ),
    Guard(
        "own disk counts as well",
        COMMIT,
        "    reached = own_durable\n",
        "    reached = max([own_durable, *confirmed.values()])\n",
        shown_by=COMMITTING + "test_what_the_leaders_own_disk_does_not_hold_is_not_committed_by_two_others_that_do",
    ),
    Guard(
        "a joiner holds everything committed",
        STREAMS,
        "stream.confirmed.sequence >= enough",
        "stream.confirmed.sequence >= 0",
        shown_by=COMMITTING + "test_who_has_confirmed_nothing_is_not_taken_into_the_set",
    ),
    Guard(
        "what is confirmed is durable",
        FOLLOWER,
        "Confirmed(stream.epoch, to_point(situation.ledger.durable), received)",
        "Confirmed(stream.epoch, to_point(situation.ledger.end), received)",
        shown_by=COMMITTING + "test_what_a_follower_has_written_and_not_synced_does_not_count",
    ),
    Guard(
        "only members of the set lead",
        ELIGIBILITY,
        '    if state.tier is None:\n        return "not in the in-sync set"\n    if tier_mode is TierMode.OFF:\n',
        "    if False:\n",
        shown_by=SCENARIOS + "test_a_node_that_may_not_lead_knows_why",
    ),
    Guard(
        "members are incarnations, not names",
        ELIGIBILITY,
        "    return own not in state.in_sync or (",
        "    return own.id not in {member.id for member in state.in_sync} or (",
        shown_by=SCENARIOS + "test_a_node_that_may_not_lead_knows_why",
    ),
    Guard(
        "silent members are waited for after a reboot",
        ELECTION,
        "        return rebooted or situation.now_ms - situation.started_ms < MEETING_MS\n",
        "        return situation.now_ms - situation.started_ms < MEETING_MS\n",
        shown_by="tests/simulation/test_regressions.py"
        "::test_a_process_restarted_after_a_reboot_waits_as_the_first_one_did",
    ),
    Guard(
        "the promise is on disk before the election is won",
        ELECTION,
        "if self.stage is not Stage.PROMISING or situation.promise < self.epoch or not situation.state_fresh:\n",
        "if self.stage is not Stage.PROMISING or not situation.state_fresh:\n",
        shown_by=LEADING + "test_nobody_leads_an_epoch_before_its_own_promise_of_it_is_on_disk",
    ),
    Guard(
        "a copied tail is proved by the chain",
        ELECTION,
        "            and situation.ledger.continued_by(event.header, event.chain)\n",
        "            and event.header.position.sequence == situation.ledger.end.sequence + 1\n",
        shown_by=LEADING + "test_a_candidate_takes_no_record_of_a_longer_tail_that_its_chain_does_not_prove",
    ),
    Guard(
        "a deposed leader stops",
        LEADER,
        '            self.over = "another change of the cluster state deposed it"\n            return\n',
        "            return\n",
        shown_by=LEADING + "test_a_leader_that_was_deposed_in_its_sleep_stops_though_no_other_node_can_tell_it",
    ),
    Guard(
        "a change behind its back ends a leadership",
        LEADER,
        '            self.over = "the cluster state was changed behind its back"\n            return\n',
        "            return\n",
        shown_by=LEADING + "test_a_leader_promises_nothing_more_when_the_cluster_state_goes_back_within_its_epoch",
    ),
    Guard(
        "a higher promise ends a leadership",
        LEADER,
        '            self.over = f"a follower has promised epoch {message.promise}"\n',
        "",
        shown_by=COMMITTING + "test_a_leader_that_hears_of_a_later_promise_leads_no_longer",
    ),
    Guard(
        "the epoch record is durable before the lead is active",
        "replication/core/recovering.py",
        "        return 0 < self.epoch_record <= self._situation.ledger.durable.sequence\n",
        "        return self.epoch_record > 0\n",
        shown_by=LEADING + "test_a_lead_is_not_active_before_its_epoch_record_is_on_disk",
    ),
    Guard(
        "nothing is committed before the lead is active",
        LEADER,
        "        if self.phase is not Phase.ACTIVE:\n            return\n        if TIER_MEMBER in",
        "        if TIER_MEMBER in",
        shown_by=LEADING + "test_a_lead_that_is_not_active_commits_nothing",
    ),
    Guard(
        "no number without a complete catalogue",
        LEADER,
        "        if not situation.ports.catalogue.complete:\n            return",
        "        if False:\n            return",
        shown_by=SCENARIOS + "test_a_leader_numbers_nothing_while_it_does_not_know_everything_that_it_holds",
    ),
    Guard(
        "streams without progress are hung up on",
        LEADER,
        "        self.streams.hang_up(self.set.allowance_ms)\n",
        "",
        shown_by="tests/core/test_guards_stall.py"
        "::test_a_follower_whose_connection_carries_nothing_gets_a_new_one_and_is_in_the_set_again",
    ),
    Guard(
        "a refused segment is not sent again",
        "replication/feeder.py",
        "            refused = last is not None and last <= self._refused.get(link, 0)\n",
        "            refused, stream.piecewise = False, 0  # by its link, and by its process\n",
        shown_by="tests/replication/test_feeder.py::test_a_segment_that_was_refused_goes_record_by_record",
    ),
    Guard(
        "a duplicate is answered when its record is committed",
        PROPOSALS,
        "            self._await(ticket, sound, Verdict.DUPLICATE)\n",
        '            self._settle(ticket, Verdict.DUPLICATE, "")\n',
        shown_by=COMMITTING + "test_a_duplicate_of_what_only_the_leader_holds_is_no_success",
    ),
    Guard(
        "a conflict is refused when its record is committed",
        PROPOSALS,
        "            self._await(ticket, others[-1], Verdict.CONFLICT_REFUSED)\n",
        '            self._settle(ticket, Verdict.CONFLICT_REFUSED, "")\n',
        shown_by=ANSWERING + "test_a_conflict_is_refused_only_once_the_record_that_it_contradicts_is_committed",
    ),
    Guard(
        "answers that rest on a record end with the lead",
        PROPOSALS,
        "        self._awaiting.clear()\n",
        "",
        shown_by=ANSWERING + "test_an_answer_that_rested_on_a_record_of_a_lost_lead_is_not_given_by_the_next_one",
    ),
    Guard(
        "a link on which an offer found no answer is closed",
        PROPOSALS,
        '                situation.emit(CloseLink(link.number, "a proposal found no answer"))\n',
        "                pass\n",
        shown_by=ANSWERING + "test_a_link_on_which_an_offer_found_no_answer_is_not_asked_again",
    ),
    Guard(
        "no Success rests on a record that is known to be damaged",
        LEADER,
        "        if sequence in self._situation.damaged:\n            return True\n",
        "        return False\n",
        shown_by=COMMITTING + "test_no_success_rests_on_a_copy_that_its_holder_knows_to_be_damaged[False]",
    ),
    Guard(
        "no Success rests on a record that its leader holds damaged",
        LEADER,
        "        if sequence in self._situation.damaged:\n            return True\n",
        "",
        shown_by=COMMITTING + "test_no_success_rests_on_a_copy_that_its_holder_knows_to_be_damaged[True]",
    ),
    Guard(
        "no Success rests on a record that a member of the set holds damaged",
        LEADER,
        "        return bool(said) and any(\n",
        "        return False and any(\n",
        shown_by=COMMITTING + "test_no_success_rests_on_a_copy_that_its_holder_knows_to_be_damaged[False]",
    ),
    Guard(
        "an offer whose record was found damaged before Success starts over",
        PROPOSALS,
        "                if pending.verdict in COMMITTED and unsound(pending.rests_on):\n",
        "                if False:\n",
        shown_by="tests/core/test_damage.py::test_a_record_found_damaged_before_it_is_committed_is_written_again",
    ),
    Guard(
        "a failed disk fences",
        REPLICA,
        '        situation.fenced = situation.fenced or f"the disk failed: {event.reason}"\n',
        "        situation.fenced = situation.fenced\n",
        shown_by=ANSWERING + "test_a_node_that_stopped_writing_cuts_nothing_for_a_new_leader",
    ),
    Guard(
        "a node that stopped writing answers no stream",
        FOLLOWER,
        "            return False  # it takes nothing, so it is not worth feeding\n",
        "            pass\n",
        shown_by=ANSWERING + "test_a_node_that_stopped_writing_cuts_nothing_for_a_new_leader",
    ),
    Guard(
        "a transfer hint ends",
        ROLES,
        "heeds = state.transfer is not None and not hinted and not patience_over",
        "heeds = state.transfer is not None and not hinted",
        shown_by=SCENARIOS + "test_a_transfer_by_a_clock_that_was_hours_ahead_delays_an_election_by_seconds_only",
    ),
    Guard(
        "no copy of a node takes the place of one that may run",
        "replication/coordination/zookeeper.py",
        "                self._namesake.refuse_if_it_runs(other, owner, live, self.session_timeout_ms())\n",
        "",
        shown_by="tests/coordination/test_coordination.py::test_no_copy_of_a_node_takes_the_place_of_one_that_may_run",
    ),
    Guard(
        "a clone of a machine is told from it by its boot",
        "replication/coordination/port.py",
        ' and self.machine in ("", machine)\n',
        "\n",
        shown_by="tests/coordination/test_coordination.py::test_no_copy_of_a_node_takes_the_place_of_one_that_may_run",
    ),
    Guard(
        "a node waits while another process runs as it",
        "perenne/joining.py",
        "            if other is None or other.is_at(*place):\n",
        "            if True:\n",
        shown_by="tests/integration/test_clones.py::"
        "test_a_copy_of_a_node_waits_and_the_node_ends_once_the_copy_has_its_place",
    ),
    Guard(
        "a new session reads the state again",
        REPLICA,
        "        if event.session is not Session.SUSPENDED:\n            situation.state_fresh = False\n",
        "",
        shown_by=LEADING + "test_a_new_session_writes_nothing_before_it_has_read_what_it_writes_upon",
    ),
)
