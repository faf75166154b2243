"""The guards of threads that read, sync and index beside one another: each says no more than it knew when it looked."""

from tests.simulation.guard import Guard

LOOKUP = "replication/lookup.py"
EVICTING = "replication/evicting.py"
INDEXING = "replication/indexing.py"
ASKED = "tests/replication/test_lookup.py::"
NODE = "tests/replication/test_evicting.py::"

READING_GUARDS = (
    Guard(
        "of two that sync one file none calls durable what the other was told is lost",
        "storage/disk.py",
        "        with self._syncing:\n",
        "        if True:\n",
        shown_by="tests/storage/test_sync_errors.py::test_the_log_does_not_call_durable_what_a_reader_was_told_is_lost",
    ),
    Guard(
        "how far the index has come is looked at before it is asked",
        LOOKUP,
        "        reach, committed = replicator.recent.reach, replicator.core.situation.committed.sequence\n"
        "        known = [version for version in replicator.recent.versions(uid) if version.sequence <= committed]\n",
        "        committed = replicator.core.situation.committed.sequence\n"
        "        known = [version for version in replicator.recent.versions(uid) if version.sequence <= committed]\n"
        "        reach = replicator.recent.reach\n",
        shown_by=ASKED + "test_the_second_data_set_of_a_name_is_not_served_while_the_index_comes_by_the_first",
    ),
    Guard(
        "what a leader may say is settled before the index is asked",
        LOOKUP,
        "absent=self._may_say_absent() and not self._current(uid)",
        "absent=not self._current(uid) and self._may_say_absent()",
        shown_by=ASKED + "test_what_the_index_comes_by_while_it_is_asked_is_not_called_absent",
    ),
    Guard(
        "an index says what it lacks before it says how far it came",
        "storage/index.py",
        "        self._holes |= frozenset(holes)\n        self._blind = blind\n        self._applied = upto ",
        "        self._applied = upto\n        self._holes |= frozenset(holes)\n        self._blind = blind ",
        shown_by=ASKED + "test_an_index_says_what_it_lacks_before_it_says_how_far_it_came",
    ),
    Guard(
        "an index that begins anew lacks all that lay here at the start",
        "replication/recent.py",
        "        self._unseen = max(self._unseen, sequence)",
        "        self._unseen = sequence",
        shown_by=ASKED + "test_an_index_that_is_made_anew_is_not_complete_before_it_has_what_lay_here_at_the_start",
    ),
    Guard(
        "an index of another log is doubted before it forgets",
        INDEXING,
        "Indexer(log, index, begins_anew=False)",
        "Indexer(log, index, begins_anew=True)",
        shown_by="tests/replication/test_indexing.py::"
        "test_an_index_is_not_complete_from_before_it_forgets_until_it_knows_as_much_again",
    ),
    Guard(
        "who keeps what is evicted is looked at once it is proved",
        EVICTING,
        "        self.why_not = self.why_not or self._keepers_missing()  # that took",
        "        self.why_not = self.why_not or None  # that took",
        shown_by=NODE + "test_a_member_that_was_to_keep_what_goes_must_still_be_there_once_it_is_proved",
    ),
    Guard(
        "what was fetched of an evicted record is checked while it leaves",
        EVICTING,
        " if self._staged.in_memory else checked(header.kind, header.digest, parts):\n",
        ":\n",
        shown_by=NODE + "test_a_large_record_that_rots_on_its_way_out_is_cut_short_and_is_no_damage_of_this_node",
    ),
    Guard(
        "what leaves of an evicted record is a copy",
        EVICTING,
        "                yield memoryview(bytes(part))\n",
        "                yield part\n",
        shown_by="tests/replication/test_outbox.py::"
        "test_an_evicted_record_leaves_as_it_is_though_its_memory_is_used_again",
    ),
    Guard(
        "a tombstone covers nothing that was stored again since it was listed",
        "replication/orders.py",
        "        for covered in covers if before else ():\n",
        "        for covered in ():\n",
        shown_by="tests/simulation/test_orders.py::"
        "test_one_person_deletes_nothing_that_was_stored_again_since_it_was_listed",
    ),
)
