"""The guards of compaction where nodes evict (ADR 0014, 11): what is learned of the bucket, and what is said of it."""

from tests.simulation.guard import Guard

LEARNED = "storage/relearning.py"
READER = "storage/reader.py"
LEARNING = "replication/relearning.py"
COMPACTING = "replication/compacting.py"

PLACES = "tests/storage/test_relearning.py::"
SAID = "tests/replication/test_relearning.py::"
SCENES = "tests/simulation/test_relearning.py::"

RELEARNING_GUARDS = (
    Guard(
        "a new stub of an evicted segment is believed only with its tombstone",
        LEARNED,
        "                covered = self._believed.cover(record.header, record.tombstone)\n",
        '                covered = Covered("", "", "", b"")\n',
        shown_by=PLACES + "test_what_this_log_does_not_prove_is_not_learned[tombstone]",
    ),
    Guard(
        "places are learned of the very records of this log",
        LEARNED,
        "        if before != end.chain:\n",
        "        if False:\n",
        shown_by=PLACES + "test_what_this_log_does_not_prove_is_not_learned[branch]",
    ),
    Guard(
        "what is a stub already stays one where new places are learned",
        LEARNED,
        "            if entry is not None and entry.stub and not record.tombstone:\n",
        "            if False:\n",
        shown_by=PLACES + "test_what_this_log_does_not_prove_is_not_learned[less]",
    ),
    Guard(
        "a new table is synced before it has its name",
        LEARNED,
        "            file.sync()\n            file.drop_cache()\n            _check(",
        "            file.drop_cache()\n            _check(",
        shown_by=PLACES + "test_relearning_survives_a_stop_after_every_operation",
    ),
    Guard(
        "a new table is read back before it has its name",
        LEARNED,
        "            _check(file, content)\n",
        "",
        shown_by=SCENES + "test_a_table_that_the_disk_drops_is_seen_before_the_old_one_goes",
    ),
    Guard(
        "a table takes the place of the very one that it was made of",
        LEARNED,
        "        if self._find(old.first) is not old:\n",
        "        if False:\n",
        shown_by=PLACES + "test_a_segment_that_came_back_meanwhile_keeps_its_records",
    ),
    Guard(
        "who reads by old places reads once more by new ones",
        READER,
        "            return read(again)\n",
        "            raise\n",
        shown_by=PLACES + "test_a_reader_that_holds_the_old_places_reads_once_more_when_their_object_is_gone",
    ),
    Guard(
        "nobody relies on who evicts before his index has come by every note",
        LEARNING,
        "        if not replicator.recent.complete:\n            return 0\n",
        "",
        shown_by=SAID + "test_it_promises_nothing_before_its_index_is_complete_and_its_floor_is_there",
    ),
    Guard(
        "what is being evicted counts as evicted",
        LEARNING,
        " and (segment.evicted or segment.first == self.letting_go)\n",
        " and segment.evicted\n",
        shown_by=SAID + "test_what_is_being_evicted_counts_as_evicted",
    ),
    Guard(
        "what holds payloads that are to go is not evicted",
        LEARNING,
        "        return bool(there) or self.acts_upto() < upto\n",
        "        return False\n",
        shown_by=SAID + "test_what_holds_payloads_that_are_to_go_is_not_evicted",
    ),
    Guard(
        "what waits to be compacted is passed over, and counts as evicted while it is looked at",
        "replication/evicting.py",
        "            if await relearning.waits(span):\n",
        "            if False:\n",
        shown_by="tests/replication/test_evicting.py::"
        "test_what_holds_payloads_that_are_to_go_stays_and_is_looked_at_again",
    ),
    Guard(
        "an index that is made anew meanwhile is not believed",
        LEARNING,
        "        if self.acts_upto() < upto:\n",
        "        if False:\n",
        shown_by=SAID + "test_an_index_that_is_made_anew_meanwhile_is_not_believed",
    ),
    Guard(
        "what could not be indexed may be what is to go",
        LEARNING,
        "        if any(span.first <= hole <= span.last for hole in index.holes):\n",
        "        if False:\n",
        shown_by=SAID + "test_what_could_not_be_indexed_may_be_one_of_them",
    ),
    Guard(
        "what a former incarnation said is not said by this one",
        LEARNING,
        "            if node not in registered or registered[node].incarnation == its.identity.incarnation\n",
        "",
        shown_by=SAID + "test_who_is_of_another_incarnation_than_he_says_is_away",
    ),
    Guard(
        "a hold keeps the old object for who reads it",
        LEARNING,
        "            if there and self._held(relearned):\n",
        "            if False:\n",
        shown_by=SCENES + "test_a_hold_that_comes_once_the_new_form_is_there_keeps_the_old_object_for_who_reads_it",
    ),
    Guard(
        "who comes back after the object went learns where it lies",
        COMPACTING,
        "        if bring_back and await self.relearning.learn(span, self._pace.look):\n",
        "        if False:\n",
        shown_by=SCENES + "test_a_node_that_comes_back_after_the_old_object_went_learns_the_new_places",
    ),
)
