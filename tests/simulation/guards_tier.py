"""The guards of the tier: filled before it is claimed, counted after it was checked, taken over by its tip."""

from tests.simulation.guard import Guard

LEADER = "replication/core/leader.py"
IN_SYNC = "replication/core/insync.py"
RECOVERING = "replication/core/recovering.py"
TAKEOVER = "replication/core/takeover.py"
TIER_SIDE = "replication/core/tierside.py"
ELIGIBILITY = "replication/core/eligibility.py"
COVERAGE = "replication/core/coverage.py"
MEMBERSHIP = "replication/core/membership.py"
TIP = "replication/tier/tip.py"

TIER = "tests/core/test_guards_tier.py::"
PUTS = "tests/core/test_puts.py::"
COPIES = "tests/core/test_guards_tier_copies.py::"
TRAPS = "tests/simulation/test_tier_traps.py::"
TIP_TESTS = "tests/tier/test_tip.py::"

TIER_GUARDS = (
    Guard(
        "the tier is filled before it is claimed",
        IN_SYNC,
        "        if found is not None and self._tier.upto(since.sequence + 1) >= situation.ledger.end.sequence:\n",
        "        if found is not None:\n",
        shown_by=TIER + "test_the_tier_is_claimed_only_once_it_holds_everything_to_the_end_of_the_log",
    ),
    Guard(
        "nothing is numbered while the tier is filled",
        LEADER,
        "        if self.tier.entering is not None:\n            return  # it is filled",
        "        if False:\n            return  # it is filled",
        shown_by=TIER + "test_nothing_is_numbered_while_the_tier_is_filled",
    ),
    Guard(
        "the tier is claimed from the commit point on",
        IN_SYNC,
        "            self._tier.entering = situation.told\n",
        "            self._tier.entering = situation.ledger.end\n",
        shown_by=TIER + "test_the_tier_is_claimed_from_the_commit_point_on",
    ),
    Guard(
        "a node enters only with all that the tier may have been counted for",
        IN_SYNC,
        " if confirmed[m] >= self._tier.asked}",
        "}",
        shown_by=COPIES + "test_a_node_enters_only_with_all_that_the_tier_may_have_been_counted_for",
    ),
    Guard(
        "no Success rests on a record that the tier has not got",
        LEADER,
        "        if lacking and len(required) - 1 < situation.settings.minimum_copies:\n",
        "        if False:\n",
        shown_by=COPIES + "test_no_success_rests_on_a_record_that_the_tier_has_not_got",
    ),
    Guard(
        "the tier is required while it enters",
        IN_SYNC,
        "        return members | {TIER_MEMBER} if self._tier.entering is not None else members\n",
        "        return members\n",
        needless="a change that adds the tier is submitted in the step in which it is filled, and counts from then on",
    ),
    Guard(
        "the tier does not count before its claim is confirmed",
        LEADER,
        "self._reached(self.tier.counted if self._claim() is not None else 0)",
        "self._reached(self.tier.counted if self._claim() is not None else self.tier.upto(1))",
        shown_by=TIER + "test_what_is_in_the_bucket_does_not_count_before_the_claim_is_confirmed",
    ),
    Guard(
        "check after PUT",
        LEADER,
        "        self.tier.check(self._reached(self.tier.upto(claim.first)), self._writer.confirmed.version)\n",
        "        self.tier.counted = self._reached(self.tier.upto(claim.first))\n",
        shown_by=TIER + "test_a_put_counts_only_after_the_check",
    ),
    Guard(
        "PUT before check",
        LEADER,
        "        self.tier.check(self._reached(self.tier.upto(claim.first)), self._writer.confirmed.version)\n",
        "        self.tier.check(self._reached(self._situation.ledger.end.sequence), self._writer.confirmed.version)\n",
        shown_by=TIER + "test_the_check_counts_no_more_than_was_put",
    ),
    Guard(
        "no check while a change of state is unresolved",
        LEADER,
        "        idle = not self._writer.busy and not self._writer.unresolved and self._situation.state_fresh\n",
        "        idle = True\n",
        needless="a check at an older version than that of `state` fails by itself",
    ),
    Guard(
        "the marker comes before the first count",
        LEADER,
        "        if claim is None or not idle or not self.tier.marked:\n",
        "        if claim is None or not idle:\n",
        shown_by=TIER + "test_nothing_is_counted_before_the_marker_is_in_the_bucket",
    ),
    Guard(
        "what the tier was counted for is forgotten when it leaves",
        TIER_SIDE,
        "        self.counted, self.marked = 0, False\n        self._check = self._marking = None\n",
        "        pass\n",
        shown_by=TIER + "test_a_tier_that_left_and_enters_again_is_marked_again",
    ),
    Guard(
        "an unknown count is believed only when it is seen",
        TIER_SIDE,
        "        if floor is not None and floor.point == check.point:\n",
        "        if True:\n",
        shown_by=TIER + "test_a_count_without_an_answer_is_believed_when_it_is_seen_and_not_before",
    ),
    Guard(
        "tierfloor is read after the election",
        RECOVERING,
        "        self._floor_read = TIER_MEMBER not in won.in_sync\n",
        "        self._floor_read = self.takeover is None\n",
        shown_by=TIER + "test_a_member_that_lacks_what_the_tier_was_counted_for_gives_up_the_lead",
    ),
    Guard(
        "a member leads only with what the tier was counted for",
        RECOVERING,
        "        elif floor is not None and not self._situation.ledger.holds(floor.point):\n",
        "        elif False:\n",
        shown_by=TIER + "test_a_member_that_lacks_what_the_tier_was_counted_for_gives_up_the_lead",
    ),
    Guard(
        "a leader speaks to no follower before it is active",
        LEADER,
        "        if self.phase is Phase.ACTIVE:\n            self.streams.open_missing()\n",
        "        self.streams.open_missing()\n",
        shown_by=TRAPS + "test_trap_4_a_leader_that_rebuilds_speaks_to_no_member",
    ),
    Guard(
        "LIST after the epoch's CAS",
        TAKEOVER,
        "        self.stage = Stage.READING\n        self.failed",
        "        self.stage = Stage.LISTING\n        self.failed",
        shown_by=TIER + "test_a_takeover_lists_the_bucket_after_the_election_and_after_tierfloor_was_read",
    ),
    Guard(
        "what was rebuilt holds everything that was counted",
        TAKEOVER,
        "            if not (situation.ledger.holds(point) if below else branch.contains(point)):\n",
        "            if False:\n",
        shown_by=TIER + "test_a_takeover_that_does_not_find_what_was_counted_leads_nobody",
    ),
    Guard(
        "what was rebuilt holds everything that was committed before the claim",
        TAKEOVER,
        "            known.append(claim.upto)\n",
        "            pass\n",
        shown_by=TIER + "test_a_takeover_that_does_not_find_what_was_committed_before_the_claim_leads_nobody",
    ),
    Guard(
        "and no tail that a later epoch has cut",
        TAKEOVER,
        "        if branch.tip.epoch <= claim.upto.epoch:",
        "        if True:",
        shown_by=TIER + "test_a_takeover_does_without_a_tail_that_a_later_epoch_has_cut",
    ),
    Guard(
        "a claim names all that a predecessor may have committed",
        IN_SYNC,
        "            upto = max(found, situation.told, key=lambda point: point.position)\n",
        "            upto = situation.told\n",
        shown_by=TIER + "test_a_claim_names_all_that_a_predecessor_may_have_committed",
    ),
    Guard(
        "a takeover stands on the claim's beginning",
        ELIGIBILITY,
        "    if before is not None and before.chain == claim.chain_before:\n",
        "    if before is not None:\n",
        shown_by=TIER + "test_a_takeover_stands_on_the_claims_beginning_only_where_its_own_log_has_it",
    ),
    Guard(
        "what is not on the branch is cut before the rebuild goes on",
        TAKEOVER,
        "        if common != situation.ledger.end:\n",
        "        if False:\n",
        shown_by=TIER + "test_what_is_not_on_the_branch_is_cut_before_the_rebuild_goes_on",
    ),
    Guard(
        "what comes from the bucket is proved by the chain",
        TAKEOVER,
        "            and situation.ledger.continued_by(event.header, event.chain)\n",
        "            and event.header.position.sequence == situation.ledger.end.sequence + 1\n",
        shown_by=TIER + "test_a_record_from_the_bucket_that_its_chain_does_not_prove_is_not_taken",
    ),
    Guard(
        "nothing is written in the new epoch before the rebuild is on the disk",
        TAKEOVER,
        "        if self.stage is not Stage.WRITING or situation.ledger.durable != situation.ledger.end:\n",
        "        if self.stage is not Stage.WRITING:\n",
        shown_by=TIER + "test_nothing_is_written_in_the_new_epoch_before_the_rebuild_is_on_the_disk",
    ),
    Guard(
        "the tip is the highest epoch's, not the highest number",
        TIP,
        "        top = max((run.end for run in self._runs), default=LogPosition(0, 0))\n",
        "        top = max((run.end for run in self._runs), key=lambda end: end.sequence, default=LogPosition(0, 0))\n",
        shown_by=TIP_TESTS + "test_an_orphan_with_higher_numbers_does_not_outrank_a_newer_epoch",
    ),
    Guard(
        "the branch is followed by its chain",
        TIP,
        "        if self._first.follows(own[-1].chain):\n",
        "        if True:\n",
        shown_by=TIP_TESTS + "test_the_log_of_the_last_leader_is_found_whole",
    ),
    Guard(
        "the branch meets one's own log by its chain",
        TIP,
        "        return point is not None and point.chain == link.chain\n",
        "        return point is not None\n",
        shown_by=TIP_TESTS + "test_the_search_ends_where_the_branch_meets_ones_own_log",
    ),
    Guard(
        "a place in the tier is found by chain",
        COVERAGE,
        "point.position == run.end and point.chain[:PREFIX_BYTES] == run.chain_prefix:",
        "True:",
        shown_by=TIER + "test_a_place_in_the_bucket_is_found_by_chain",
    ),
    Guard(
        "a bucket that knows of a later epoch ends the lead",
        TIER_SIDE,
        "        elif situation.tier_epoch > epoch:\n",
        "        elif False:\n",
        shown_by=TIER + "test_a_bucket_with_records_of_a_later_epoch_ends_the_lead",
    ),
    Guard(
        "a bucket that knows of a later change ends the lead",
        TIER_SIDE,
        "        if event.counter > counter:\n",
        "        if False:\n",
        shown_by=TIER + "test_a_bucket_with_the_marker_of_a_later_change_ends_the_lead",
    ),
    Guard(
        "every object begins where what is confirmed ends",
        TIER_SIDE,
        "        first, last = gap\n",
        "        first, last = (gap[0] if not self._puts else self._puts[-1].last + 1), gap[1]\n",
        shown_by=PUTS + "test_whichever_of_the_puts_arrives_the_bucket_has_no_gap",
    ),
    Guard(
        "little is put more than once",
        TIER_SIDE,
        "        return size <= AGAIN_BYTES\n",
        "        return True\n",
        shown_by=PUTS + "test_what_is_large_is_put_once",
    ),
    Guard(
        "puts beside each other are few",
        TIER_SIDE,
        " or len(self._puts) >= PUTS_AT_ONCE:\n",
        ":\n",
        shown_by=PUTS + "test_only_a_few_are_under_way_and_each_holds_what_the_ones_before_it_hold",
    ),
    Guard(
        "a put under way is not a bucket that moves",
        TIER_SIDE,
        "        if not self._puts:\n            self._begins()\n",
        "        self._begins()\n",
        shown_by=PUTS + "test_a_bucket_that_stands_still_is_found_out_however_many_puts_wait",
    ),
    Guard(
        "a member that lacks what the tier was claimed with leads through the tier",
        "replication/core/eligibility.py",
        " or (state.tier is not None and _lacks(ledger, state.tier.upto))\n",
        "\n",
        shown_by="tests/simulation/test_tier_traps.py::"
        "test_a_member_that_was_rolled_back_as_the_tier_entered_leads_through_it",
    ),
)
