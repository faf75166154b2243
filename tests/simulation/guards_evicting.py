"""The guards of eviction: what goes is elsewhere, proved and kept; what cannot be had is said, and damages nothing."""

from tests.simulation.guard import Guard

EVICTING = "replication/evicting.py"
LOG = "storage/log.py"
REWRITING = "storage/rewriting.py"
READER = "storage/reader.py"
NOTING = "storage/noting.py"
SIMULATED = "tests/simulation/test_eviction.py::"
NODE = "tests/replication/test_evicting.py::"
STORED = "tests/storage/test_evicted.py::"

EVICTING_GUARDS = (
    Guard(
        "another member keeps what is evicted",
        EVICTING,
        "        if len(keepers) >= needed:\n",
        "        if True:\n",
        shown_by=NODE + "test_another_member_must_keep_what_goes",
    ),
    Guard(
        "who evicts keeps nothing for others",
        EVICTING,
        " if node in others and not live.evicts]",
        " if node in others]",
        shown_by=NODE + "test_another_member_must_keep_what_goes",
    ),
    Guard(
        "as many keep what is evicted as Success promised, the bucket counted",
        EVICTING,
        "        needed = situation.settings.copies_required - 1\n",
        "        needed = 0\n",
        shown_by=SIMULATED + "test_where_every_node_would_evict_none_does",
    ),
    Guard(
        "who keeps what is evicted is in the in-sync set",
        EVICTING,
        " if node in others and not live.evicts]",
        " if not live.evicts and node != replicator.me.id]",
        shown_by=SIMULATED + "test_nothing_is_evicted_while_only_a_node_outside_the_set_would_keep_it",
    ),
    Guard(
        "the event loop does not wait for the tier",
        EVICTING,
        "        if self.may_not_wait():\n",
        "        if False:\n",
        shown_by=SIMULATED + "test_the_event_loop_does_not_wait_for_the_bucket",
    ),
    Guard(
        "an index goes on past what the bucket has lost",
        "storage/indexer.py",
        "            if isinstance(error, RecordsElsewhere) and not error.gone:\n",
        "            if isinstance(error, RecordsElsewhere):\n",
        shown_by=SIMULATED + "test_a_leader_numbers_although_the_bucket_lost_what_its_index_would_have_to_read",
    ),
    Guard(
        "a segment is proved before it is evicted",
        EVICTING,
        "        self.why_not = await tiering.prove(span)\n",
        "        self.why_not = None\n",
        shown_by=NODE + "test_an_object_that_is_altered_evicts_nothing",
    ),
    Guard(
        "a committed record follows what is evicted",
        EVICTING,
        "segment.last is None or segment.last >= floor:",
        "segment.last is None or segment.last > floor:",
        shown_by=NODE + "test_what_the_log_may_be_cut_back_to_stays",
    ),
    Guard(
        "what the tier has damaged is no damage here",
        NOTING,
        "            if self._log.distrusts(self._sequence):\n",
        "            if False:\n",
        shown_by=STORED + "test_what_cannot_be_had_is_said_and_is_no_damage_of_this_node",
    ),
    Guard(
        "what came damaged is fetched anew",
        READER,
        "        found.file.drop_cache()\n        return True\n",
        "        return True\n",
        shown_by=NODE + "test_a_tier_that_is_away_or_lies_keeps_nobody_waiting_and_damages_nothing",
    ),
    Guard(
        "a segment with damage is not evicted",
        REWRITING,
        "        if end is None or self._damaged_in(span):\n",
        "        if end is None:\n",
        shown_by=STORED + "test_what_is_written_damaged_or_cut_is_not_evicted_and_what_is_evicted_not_cut",
    ),
    Guard(
        "what is evicted is not cut",
        LOG,
        "        if sequence < self._end.sequence and self.is_evicted(sequence + 1):\n",
        "        if False:\n",
        shown_by=STORED + "test_what_is_written_damaged_or_cut_is_not_evicted_and_what_is_evicted_not_cut",
    ),
    Guard(
        "a point never waits for the tier",
        READER,
        "        if found.evicted:\n            return None",
        "        if False:\n            return None",
        shown_by=STORED + "test_points_and_epochs_never_ask_the_tier",
    ),
    Guard(
        "a scrub leaves what is left of an evicted segment as it is",
        REWRITING,
        "        if segment.evicted:\n            return []",
        "        if False:\n            return []",
        shown_by=STORED + "test_a_scrub_mends_nothing_of_it_and_what_the_tier_has_damaged_is_not_its_finding",
    ),
)
