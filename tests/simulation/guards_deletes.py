"""The guards of deletes: judged before duplicates, numbered once, and only while nobody can contradict (ADR 0011)."""

from tests.simulation.guard import Guard

LEADER = "replication/core/leader.py"
PROPOSALS = "replication/core/proposals.py"
REPLICA = "replication/core/replica.py"
RECENT = "replication/recent.py"
LOOKUP = "replication/lookup.py"
REJOIN = "replication/rejoin.py"
INDEXER = "storage/indexer.py"
BURIED = "storage/buried.py"
INDEX = "storage/index.py"

DELETES = "tests/core/test_guards_deletes.py::"
STORAGE = "tests/storage/test_deletion.py::"
DRIVER = "tests/replication/test_deletes.py::"
SCENES = "tests/simulation/test_deletes.py::"

DELETE_GUARDS = (
    Guard(
        "duplicates are judged after tombstones",
        PROPOSALS,
        "            if is_covered(version, buried):\n                covered = True",
        "            if False:\n                covered = True",
        shown_by=DELETES + "test_what_is_stored_after_a_delete_is_a_new_instance_and_no_duplicate",
    ),
    Guard(
        "a tombstone covers what lies below it only",
        PROPOSALS,
        "        and tombstone.sequence > version.sequence\n",
        "",
        shown_by=DELETES + "test_what_is_stored_after_a_delete_is_a_new_instance_and_no_duplicate",
    ),
    Guard(
        "what was deleted does not come back out of lost+found",
        PROPOSALS,
        "        elif offer.again and deleted and not same:\n",
        "        elif False:\n",
        shown_by=DELETES + "test_what_was_deleted_does_not_come_back_out_of_lost_and_found",
    ),
    Guard(
        "nothing is dropped for a delete that is not committed",
        PROPOSALS,
        "            self._await(ticket, deleted, Verdict.DELETED)\n",
        '            self._settle(ticket, Verdict.DELETED, "")\n',
        shown_by=DELETES + "test_nothing_is_dropped_for_the_sake_of_a_delete_that_is_not_committed",
    ),
    Guard(
        "a delete is numbered once",
        PROPOSALS,
        "        if there:\n            self._await(ticket, there, Verdict.DUPLICATE)\n        elif held:\n",
        "        if held:\n",
        shown_by=DELETES + "test_a_delete_offered_again_to_the_next_leader_is_numbered_once",
    ),
    Guard(
        "nothing on hold is deleted",
        PROPOSALS,
        "        elif held:\n",
        "        elif False:\n",
        shown_by=DELETES + "test_a_study_on_hold_is_not_deleted_from_the_moment_that_the_hold_is_numbered",
    ),
    Guard(
        "nothing is deleted while a registered node does not follow",
        LEADER,
        "        absent = sorted({member.id for member in self.registered - follow})\n",
        "        absent = sorted({member.id for member in self.registered - self.registered})\n",
        shown_by=DELETES + "test_nothing_is_deleted_while_a_registered_node_does_not_follow",
    ),
    Guard(
        "nothing is deleted before the leader knows who is registered",
        LEADER,
        '            return "it is not known who is registered"\n',
        "            return None\n",
        shown_by=DELETES + "test_nothing_is_deleted_before_the_leader_knows_who_is_registered",
    ),
    Guard(
        "who is registered is asked in this epoch",
        REPLICA,
        "if self.leadership is not None and self.leadership.epoch == event.epoch:",
        "if self.leadership is not None:",
        shown_by=DELETES + "test_who_was_registered_in_an_older_epoch_says_nothing_in_this_one",
    ),
    Guard(
        "what follows a tombstone or note is judged by it",
        LEADER,
        "            if kind is not RecordKind.INSTANCE:\n                return",
        "            if False:\n                return",
        shown_by=DELETES + "test_a_study_on_hold_is_not_deleted_from_the_moment_that_the_hold_is_numbered",
    ),
    Guard(
        "what is saved is offered as what was stored before",
        REJOIN,
        "        again=True,\n",
        "",
        shown_by=DRIVER + "test_what_was_cut_is_offered_as_what_was_stored_before",
    ),
    Guard(
        "a follower does not serve what a tombstone on its way covers",
        LOOKUP,
        "            upto = committed if replicator.core.leadership is not None and self._may_say_absent() else None\n",
        "            upto = committed\n",
        shown_by=SCENES + "test_a_follower_asks_the_leader_about_what_a_tombstone_on_its_way_covers",
    ),
    Guard(
        "nothing is served while tombstones may be unknown",
        LOOKUP,
        "        if not known or not reach.deletes:\n",
        "        if not known:\n",
        shown_by=SCENES + "test_nothing_is_served_before_the_index_has_come_by_the_last_tombstone",
    ),
    Guard(
        "whom the leader calls deleted nobody else is asked for",
        LOOKUP,
        "                except InstanceDeleted:\n                    raise\n",
        "",
        shown_by=SCENES + "test_what_the_leader_calls_deleted_is_not_asked_of_a_node_that_lags_behind",
    ),
    Guard(
        "nothing is numbered by an index that missed a tombstone",
        RECENT,
        "        known = not self.doubtful and not self._index.blind\n",
        "        known = not self.doubtful\n",
        shown_by=DRIVER + "test_an_index_that_missed_a_tombstone_is_not_complete",
    ),
    Guard(
        "what cannot be told from a tombstone may be one",
        INDEXER,
        "            holes[sequence] = entry is None or entry.kind in SMALL_KINDS\n",
        "            holes[sequence] = False\n",
        shown_by=STORAGE + "test_a_tombstone_that_cannot_be_read_makes_the_index_say_so",
    ),
    Guard(
        "the index hides what is deleted",
        BURIED,
        "AND sequence < ?3",
        "AND sequence > ?3",
        shown_by=STORAGE + "test_what_is_deleted_is_hidden_and_a_store_after_it_is_there",
    ),
    Guard(
        "a record that is repaired after its delete stays deleted",
        INDEX,
        "            buried.hide_buried(self._connection, [r.sequence for r in found if",
        "            buried.hide_buried(self._connection, [r.sequence for r in found if False and",
        shown_by=STORAGE + "test_an_instance_that_was_unreadable_when_it_was_deleted_stays_deleted",
    ),
)
