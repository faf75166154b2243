"""The guards of an operator's verbs: nothing is lost without having been named, and nobody goes on behind a leader."""

from tests.simulation.guard import Guard

RESCUE = "replication/core/rescue.py"
REBUILD = "replication/core/rebuild.py"
STANDING = "perenne/standing.py"
SURGERY = "replication/coordination/surgery.py"
OPERATOR = "perenne/rescue.py"
PLANS = "tests/cli/test_rescue_plans.py::"
SCENES = "tests/simulation/test_rescue.py::"

RESCUE_GUARDS = (
    Guard(
        "the tail of an older epoch is not taken for what was committed",
        RESCUE,
        "    return min(end.sequence, known.sequence) if end.epoch == known.epoch else told.sequence\n",
        "    return min(end.sequence, known.sequence) if end.epoch <= known.epoch else told.sequence\n",
        shown_by=SCENES + "test_a_tail_of_an_older_epoch_is_not_taken_for_what_was_committed_later",
    ),
    Guard(
        "the survivor along the highest epoch goes on",
        RESCUE,
        "    return max(fit, key=lambda node: (node.end.position, node.member), default=None)\n",
        "    return min(fit, key=lambda node: (node.end.position, node.member), default=None)\n",
        shown_by=SCENES + "test_the_node_that_holds_most_goes_on",
    ),
    Guard(
        "a bucket that holds more goes on",
        RESCUE,
        "    return reaches_further(bucket, chosen) and",
        "    return False and",
        shown_by=SCENES + "test_a_cluster_state_is_rebuilt_from_the_bucket_where_that_holds_more",
    ),
    Guard(
        "a bucket with a gap does not go on",
        RESCUE,
        " and bucket.whole_from <= chosen.told.sequence + 1\n",
        "\n",
        shown_by="tests/core/test_rescue.py::test_a_bucket_that_only_follows_is_asked_and_goes_on_where_it_holds_more",
    ),
    Guard(
        "what the newest cluster state said to be committed counts",
        REBUILD,
        ", *([last.floor] if last is not None else [])]",
        "]",
        shown_by=SCENES + "test_a_bucket_goes_on_from_what_the_lost_cluster_state_says_was_committed",
    ),
    Guard(
        "a node tells the newest cluster state that it read",
        STANDING,
        "newest(self._recalled, self._replicator.core.situation.cluster)",
        "self._replicator.core.situation.cluster",
        shown_by=SCENES + "test_a_node_that_read_an_older_state_and_started_anew_tells_the_newest_all_the_same",
    ),
    Guard(
        "a bucket that ends behind everybody is not passed over in silence",
        REBUILD,
        "vague = (*passed_over(tier, chosen), ",
        "vague = (*(), ",
        shown_by="tests/core/test_rescue.py::test_a_bucket_that_reaches_further_and_does_not_join_is_a_loss_to_be_accepted",
    ),
    Guard(
        "a cluster state that was read and that nobody remembers is a loss to be accepted",
        REBUILD,
        "(*passed_over(tier, chosen), *_forgotten(last, nodes))",
        "(*passed_over(tier, chosen),)",
        shown_by=SCENES + "test_a_node_that_read_who_was_in_sync_and_forgot_it_does_not_say_that_nothing_is_lost",
    ),
    Guard(
        "a rebuilt state is of an epoch above every promise",
        REBUILD,
        "*(n.promise for n in survivors))",
        "0)",
        shown_by=SCENES + "test_a_coordination_service_that_lost_its_data_is_rebuilt_and_nothing_is_lost",
    ),
    Guard(
        "an operator's hand writes nothing where something changed",
        SURGERY,
        "            transaction.set_data(self._path(name), data, version)\n",
        "            transaction.set_data(self._path(name), data)\n",
        shown_by=SCENES + "test_a_plan_is_not_carried_out_when_somebody_wrote_after_it_was_made",
    ),
    Guard(
        "everybody is asked again once a person has agreed",
        "perenne/cli/rescuing.py",
        "        if not rescue.same(agreed, plan):\n",
        "        if False:\n",
        shown_by="tests/coordination/test_rescue_waits.py::"
        "test_what_the_nodes_hold_is_asked_for_again_once_a_person_has_agreed",
    ),
    Guard(
        "the tier of another cluster counts for nothing",
        OPERATOR,
        "    if tier_of is not None and seen.clusters and tier_of not in seen.clusters:\n",
        "    if False:\n",
        shown_by=PLANS + "test_the_tier_of_another_cluster_is_not_taken_for_ours",
    ),
    Guard(
        "the state of another cluster is not given to these nodes",
        OPERATOR,
        "    if strange := _strange(seen):\n",
        "    if strange := _strange(seen) and None:\n",
        shown_by=PLANS + "test_the_state_of_another_cluster_is_not_given_to_our_nodes",
    ),
    Guard(
        "who keeps a session is not given up",
        OPERATOR,
        "    if not there:\n",
        "    if True:\n",
        shown_by=PLANS + "test_who_keeps_a_session_is_not_given_up_because_he_cannot_be_reached",
    ),
    Guard(
        "no disk is barred while its node keeps a session",
        "perenne/cli/members.py",
        "    if after is None:\n        raise NotPossible(\n",
        "    if after is None:\n        return found\n    if False:\n        raise NotPossible(\n",
        shown_by="tests/cli/test_members.py::test_a_node_that_runs_out_of_reach_keeps_its_disk",
    ),
)
