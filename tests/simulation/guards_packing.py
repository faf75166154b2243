"""The guards of packing: nothing is deleted that is not somewhere else, proved."""

from tests.simulation.guard import Guard

PACKING = "replication/core/packing.py"
DRIVER = "replication/packing.py"
AUDIT = "replication/core/audit.py"
CORE = "tests/core/test_packing.py::"
AUDITED = "tests/core/test_audit.py::"
COMPACTED = "tests/core/test_packing_compacted.py::"
STORES = "tests/tier/test_packing.py::"
SIMULATED = "tests/simulation/test_tier.py::"

PACKING_GUARDS = (
    Guard(
        "a missing segment does not wait for one that waits for it",
        PACKING,
        "self._next == span.first == gap[0] and",
        "self._next <= span.first == gap[0] and",
        shown_by=CORE + "test_a_missing_segment_does_not_wait_for_one_that_waits_for_it",
    ),
    Guard(
        "the object that reaches furthest is never replaced",
        PACKING,
        "            followed = self._coverage.upto(span.last + 1) > span.last\n",
        "            followed = True\n",
        shown_by=CORE + "test_the_object_that_reaches_furthest_is_never_replaced",
    ),
    Guard(
        "nothing is packed before it is committed",
        PACKING,
        "            if span is None or span.last > situation.told.sequence or",
        "            if span is None or",
        shown_by=CORE + "test_nothing_is_packed_before_it_is_committed",
    ),
    Guard(
        "nothing is replaced that the tier was not counted for",
        PACKING,
        "            if span.last > limit or not followed or",
        "            if not followed or",
        shown_by=CORE + "test_nothing_is_replaced_before_a_leader_that_needs_the_tier_has_counted_it_itself",
    ),
    Guard(
        "what was not proved replaces nothing",
        PACKING,
        "        if event.reason:\n            if self._repeating",
        "        if event.lasting:\n            if self._repeating",
        shown_by=CORE + "test_a_segment_that_could_not_be_proved_replaces_nothing_and_is_tried_again",
    ),
    Guard(
        "an object goes once each of its records was proved elsewhere",
        PACKING,
        "        return not of_another and self._proved.upto(run.first) >= run.last\n",
        "        return not of_another\n",
        shown_by=CORE + "test_an_object_over_two_segments_goes_once_both_were_proved",
    ),
    Guard(
        "a segment's own object goes only where a form with more stubs stands in its place",
        PACKING,
        "        if (run.first, run.last) == (own.first, own.last):\n",
        "        if False:\n",
        shown_by=COMPACTED + "test_what_a_former_leader_compacted_further_is_not_replaced_by_more",
    ),
    Guard(
        "nothing is deleted where the store does not delete",
        PACKING,
        "        if doomed and self.deletes:\n",
        "        if doomed:\n",
        shown_by=CORE + "test_where_the_store_does_not_delete_small_objects_stay",
    ),
    Guard(
        "nothing is put with a gap below it",
        "replication/core/tierside.py",
        "            if gap is not None and self.packing is not None and self.packing.takes(gap):\n",
        "            if False:\n",
        shown_by=CORE + "test_an_empty_bucket_gets_whole_segments_oldest_first_and_small_objects_behind_them",
    ),
    Guard(
        "what lies in the bucket is read back",
        DRIVER,
        "            try:\n                await self._prove(run, end)\n",
        "            try:\n                await asyncio.sleep(0)\n",
        shown_by=STORES + "test_what_was_altered_in_the_bucket_is_found_and_replaces_nothing",
    ),
    Guard(
        "what is damaged here does not leave",
        DRIVER,
        "                stubs += [link.sequence for link in reader.feed(piece) if link.tombstone]\n",
        "",
        shown_by=STORES + "test_what_is_damaged_here_does_not_leave_under_a_good_name",
    ),
    Guard(
        "what was just proved stays",
        PACKING,
        "            return run.form.stubs < min(own.form.stubs, self._unread.get(own.first, 0))\n",
        "            return run.form.stubs <= min(own.form.stubs, self._unread.get(own.first, 0))\n",
        shown_by=COMPACTED + "test_what_a_former_leader_compacted_further_is_not_replaced_by_more",
    ),
    Guard(
        "nothing with fewer stubs replaces one with more",
        PACKING,
        "            return run.form.stubs < min(own.form.stubs, self._unread.get(own.first, 0))\n",
        "            return run != own\n",
        shown_by=COMPACTED + "test_what_a_former_leader_compacted_further_is_not_replaced_by_more",
    ),
    Guard(
        "nothing is replaced while somebody reads what was evicted from it",
        PACKING,
        "        said = {} if why_not else dict(event.stubs)\n",
        "        said = dict(event.stubs)\n",
        shown_by=COMPACTED + "test_while_somebody_may_read_the_old_object_nothing_is_replaced[True]",
    ),
    Guard(
        "an object stays beside the new one while somebody reads what was evicted from it",
        PACKING,
        "        self._unread = {first: stubs for first, stubs in said.items() if first not in event.read}\n",
        "        self._unread = said\n",
        shown_by=COMPACTED
        + "test_while_somebody_reads_evicted_records_from_it_the_old_object_stays_beside_the_new_one",
    ),
    Guard(
        "a segment whose object waits keeps no other from being put anew",
        PACKING,
        "            for first in sorted(self._stubs)[:AT_ONCE]:\n",
        "            for first in sorted(self._stubs)[:1]:\n",
        shown_by=COMPACTED + "test_a_segment_that_waits_keeps_no_other_from_its_turn_however_often_it_is_said",
    ),
    Guard(
        "only what all have promised not to read is deleted",
        PACKING,
        "            return run.form.stubs < min(own.form.stubs, self._unread.get(own.first, 0))\n",
        "            return run.form.stubs < own.form.stubs\n",
        shown_by=COMPACTED + "test_who_has_learned_the_places_of_one_form_may_read_it_until_he_says_otherwise",
    ),
    Guard(
        "a promise about earlier tombstones is none about this one",
        "replication/core/compaction.py",
        "        return self.upto < upto or first in self.behind or",
        "        return first in self.behind or",
        shown_by="tests/core/test_compaction.py::test_an_object_stays_while_somebody_may_read_from_it_what_he_evicted",
    ),
    Guard(
        "a compacted segment is not put before something follows it",
        PACKING,
        "        elif span.last <= limit and self._coverage.upto(span.last + 1) > span.last:\n",
        "        elif span.last <= limit:\n",
        shown_by=COMPACTED + "test_nothing_is_replaced_before_what_follows_it_is_there",
    ),
    Guard(
        "each form of a segment is put once in a leadership",
        PACKING,
        "        if self._settled.get(first) == stubs:\n",
        "        if False:\n",
        shown_by=COMPACTED + "test_a_bucket_that_does_not_let_go_is_asked_once_for_each_form",
    ),
    Guard(
        "an object has the stubs that its name says",
        DRIVER,
        "        if form_of(stubs) != run.form:\n            raise FormatError(",
        "        if False:\n            raise FormatError(",
        shown_by="tests/tier/test_stubs.py::test_an_object_with_other_stubs_than_its_name_says_replaces_nothing",
    ),
    Guard(
        "who is away may read what was evicted",
        "replication/core/compaction.py",
        "    away = sorted(node for node in registered if node not in said)\n",
        "    away: list[ReplicaId] = []\n",
        shown_by="tests/core/test_compaction.py::test_objects_stay_as_they_are_while_a_node_is_away_that_may_read_them",
    ),
    Guard(
        "the object of another segment is not deleted",
        PACKING,
        "        return not of_another and self._proved.upto(run.first) >= run.last\n",
        "        return self._proved.upto(run.first) >= run.last\n",
        shown_by=CORE + "test_a_put_that_is_answered_late_may_have_put_the_object_of_a_segment",
    ),
    Guard(
        "what one listing lacks is not lost",
        AUDIT,
        "        if lacking and not self._again:\n",
        "        if False:\n",
        shown_by=AUDITED + "test_what_one_listing_shows_and_the_other_does_not_is_not_lost",
    ),
    Guard(
        "an object whose last record is damaged here is not lost",
        AUDIT,
        "            held.add(run.first, run.last)\n",
        "            pass\n",
        shown_by=AUDITED + "test_an_object_whose_last_record_is_damaged_here_is_not_called_lost",
    ),
    Guard(
        "what is lost proves nothing any more",
        PACKING,
        "        self._proved.remove(first, last)\n",
        "",
        shown_by=AUDITED + "test_small_objects_are_not_deleted_on_the_strength_of_a_segment_that_is_gone",
    ),
    Guard(
        "fewer stubs do not take the place of an object that is gone",
        PACKING,
        "        elif most > self._stubs_here.get(span.first, 0):\n",
        "        elif False:\n",
        shown_by=AUDITED + "test_a_form_with_fewer_stubs_is_not_put_in_the_place_of_one_that_is_gone",
    ),
    Guard(
        "what a segment left behind stays when it was lost while that was being deleted",
        PACKING,
        "        lost = not self.holds(span.first, span.last)  # since this was asked for: what is left of it stays\n",
        "        lost = False\n",
        shown_by=CORE + "test_a_segment_that_is_lost_while_its_small_objects_go_is_put_again_before_more_is_deleted",
    ),
    Guard(
        "a form that the bucket lost replaces nothing",
        PACKING,
        "        self._own.pop(span.first, None)\n",
        "",
        shown_by=COMPACTED + "test_a_new_form_that_is_lost_and_cannot_be_put_again_takes_no_other_with_it",
    ),
    Guard(
        "nor does one that was lost before what it replaces went",
        PACKING,
        "        if self._segment == span and self._doomed and self._request is None:\n",
        "        if False:\n",
        shown_by=COMPACTED + "test_a_new_form_that_the_bucket_lost_takes_no_other_with_it",
    ),
)
