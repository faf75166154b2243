"""The guards of compaction, by the rules of ADR 0014: what may go, what is believed, and what is written how."""

from tests.simulation.guard import Guard

CORE = "replication/core/compaction.py"
COMPACTING = "replication/compacting.py"
RECENT = "replication/recent.py"
REWRITING = "storage/rewriting.py"
STUBS = "storage/stubs.py"
READER = "storage/reader.py"
APPENDER = "storage/appender.py"
LOG = "storage/log.py"

DECIDED = "tests/core/test_compaction.py::"
REWRITTEN = "tests/storage/test_compaction.py::"
BELIEVED = "tests/storage/test_stubs.py::"
SCENES = "tests/simulation/test_compaction.py::"

COMPACTING_GUARDS = (
    # 2: a stub is believed only with the tombstone in one's own log
    Guard(
        "compaction takes away only what a tombstone of this log covers",
        REWRITING,
        "            self._believed.cover(decoded.header, tombstone)\n            if not decoded.tombstone:\n",
        "            if not decoded.tombstone:\n",
        shown_by=REWRITTEN + "test_only_what_a_tombstone_of_this_log_covers_is_taken_away",
    ),
    Guard(
        "a tombstone covers the bytes that it names, to compaction",
        STUBS,
        "        if covered.dataset == header.dataset and name in",
        "        if name in",
        shown_by=BELIEVED + "test_a_tombstone_covers_these_bytes_under_this_name",
    ),
    Guard(
        "a tombstone covers the UID that it names, to compaction",
        STUBS,
        " and name in _file_names(covered.sop_instance_uid, header)\n",
        "\n",
        shown_by=BELIEVED + "test_a_tombstone_covers_these_bytes_under_this_name",
    ),
    Guard(
        "a tombstone covers what lies below it only, to compaction",
        STUBS,
        "        if header.kind is RecordKind.INSTANCE and tombstone > sequence:\n",
        "        if header.kind is RecordKind.INSTANCE:\n",
        shown_by=REWRITTEN + "test_a_tombstone_that_names_what_comes_later_does_not_cover_it",
    ),
    Guard(
        "a stub is read only with its tombstone",
        READER,
        "                self._believed.cover(header, decoded.tombstone)\n            elif",
        "                pass\n            elif",
        shown_by=BELIEVED + "test_without_its_tombstone_a_stub_is_damage_and_the_payload_repairs_it",
    ),
    Guard(
        "a stub that is not written yet is read only with its tombstone",
        READER,
        "        self._believed.cover(header, pending.tombstone)\n",
        "",
        shown_by=BELIEVED + "test_a_stub_that_is_not_written_yet_is_not_read_either",
    ),
    Guard(
        "a stub repairs only what its tombstone covers",
        LOG,
        "        if decoded.tombstone:\n            self._believed.cover(header, decoded.tombstone)\n",
        "",
        shown_by=BELIEVED + "test_a_stub_repairs_what_its_tombstone_covers_and_nothing_else",
    ),
    Guard(
        "who reads the files believes a stub by its tombstone only",
        STUBS,
        " or cover_of(content, header) is None:\n",
        ":\n",
        shown_by=BELIEVED + "test_a_log_read_offline_says_which_stubs_no_tombstone_covers",
    ),
    # 3: until then it is known damage
    Guard(
        "a stub is known damage before it is written",
        APPENDER,
        "            self.damage.note(*(one.entry.position.sequence for one in self._group if one.tombstone))\n",
        "",
        shown_by=BELIEVED + "test_record_by_record_a_stub_is_damage_until_its_tombstone_is_durable",
    ),
    Guard(
        "the stubs of a whole segment are known damage before it is there",
        LOG,
        "        self.damage.note(*stubs)  #",
        "        #",
        shown_by=BELIEVED + "test_segment_by_segment_a_stub_is_damage_until_its_tombstone_is_there",
    ),
    Guard(
        "a stub is believed once its tombstone is durable",
        APPENDER,
        "        arrived = [sequence for sequence, by in self.waiting.items() if by <= self._durable.sequence]\n",
        "        arrived = list(self.waiting)\n",
        shown_by=BELIEVED + "test_record_by_record_a_stub_is_damage_until_its_tombstone_is_durable",
    ),
    Guard(
        "a stub that its tombstone does not cover stays damage",
        APPENDER,
        "        believed = [sequence for sequence in arrived if self._is_believed(sequence)]\n",
        "        believed = arrived\n",
        shown_by=BELIEVED + "test_without_its_tombstone_a_stub_is_damage_and_the_payload_repairs_it",
    ),
    Guard(
        "after a start a stub waits for its tombstone as before",
        LOG,
        "        log.wait_for_tombstones()\n",
        "",
        shown_by=BELIEVED + "test_record_by_record_a_stub_is_damage_until_its_tombstone_is_durable[True]",
    ),
    Guard(
        "while its tombstone may still come nobody repairs a stub",
        "replication/mender.py",
        " for sequence in log.damaged() if not log.awaits(sequence)]",
        " for sequence in log.damaged()]",
        shown_by=SCENES + "test_nobody_is_asked_for_a_stub_whose_tombstone_may_still_come",
    ),
    # 4 and 5: when it is permitted
    Guard(
        "a tombstone that is not committed is not acted upon",
        CORE,
        "    if tombstone > standing.committed:\n",
        "    if False:\n",
        shown_by=DECIDED + "test_a_tombstone_waits_for_whoever_lacks_it",
    ),
    Guard(
        "a tombstone waits for every registered node",
        CORE,
        " for node, holds in standing.nodes.items() if holds < tombstone)",
        " for node, holds in standing.nodes.items() if False)",
        shown_by=DECIDED + "test_a_tombstone_waits_for_whoever_lacks_it",
    ),
    Guard(
        "a tombstone waits for the bucket",
        CORE,
        "    if standing.tier is not None and standing.tier < tombstone:\n",
        "    if False:\n",
        shown_by=DECIDED + "test_a_tombstone_waits_for_whoever_lacks_it",
    ),
    Guard(
        "a tombstone waits until it cannot be undone",
        CORE,
        "        if not why_not and now_us - time_us < undo_us:\n",
        "        if False:\n",
        shown_by=DECIDED + "test_a_tombstone_waits_until_it_cannot_be_undone_and_keeps_those_behind_it",
    ),
    Guard(
        "a tombstone that waits keeps those behind it",
        CORE,
        "            return Permission(upto, why_not)\n",
        "            continue\n",
        shown_by=DECIDED + "test_a_tombstone_waits_until_it_cannot_be_undone_and_keeps_those_behind_it",
    ),
    Guard(
        "a node that is away counts by what it said last",
        COMPACTING,
        "            node.id: max(node.floor.sequence, min(committed, confirmed.get(node.id, 0)))\n",
        "            node.id: max(node.floor.sequence, min(committed, confirmed.get(node.id, committed)))\n",
        shown_by=SCENES + "test_nothing_goes_while_a_node_that_lacks_the_tombstone_may_come_back",
    ),
    Guard(
        "what is on hold is not compacted",
        COMPACTING,
        " for one in there if not recent.hold(one.study, committed)}",
        " for one in there}",
        shown_by=SCENES + "test_what_is_on_hold_stays_until_it_is_let_go",
    ),
    Guard(
        "what was put on hold while it was written anew is not compacted",
        COMPACTING,
        "                if self._unheld(there) != covered:\n",
        "                if False:\n",
        shown_by=SCENES + "test_a_hold_that_comes_while_a_segment_is_written_anew_is_heeded",
    ),
    Guard(
        "a hold is let go by what is committed only",
        RECENT,
        "            if early and isinstance(note, Note) and note.what == RELEASE:\n",
        "            if False:\n",
        shown_by=SCENES + "test_a_hold_is_let_go_only_by_what_is_committed",
    ),
    Guard(
        "nothing is compacted before the index has come by every note",
        COMPACTING,
        "        if not recent.complete:\n",
        "        if False:\n",
        shown_by=SCENES + "test_nothing_is_compacted_before_the_index_has_come_by_the_last_note",
    ),
    # 6: what a node rewrites, and how
    Guard(
        "a node acts upon tombstones below its own floor",
        COMPACTING,
        "        upto, after, left, self._brought_back = min(self._permitted(), floor), 0, 0, 0\n",
        "        upto, after, left, self._brought_back = self._permitted(), 0, 0, 0\n",
        shown_by=SCENES + "test_nothing_rests_on_a_tombstone_above_the_floor",
    ),
    Guard(
        "a node rewrites segments that end below its own floor",
        COMPACTING,
        " if span is not None and span.last < floor else 0\n",
        " if span is not None else 0\n",
        shown_by=SCENES + "test_nothing_is_rewritten_that_may_still_be_cut",
    ),
    Guard(
        "a segment with damage is not compacted",
        REWRITING,
        "        if span.first != first or self._damaged_in(span):\n",
        "        if span.first != first:\n",
        shown_by=REWRITTEN + "test_a_segment_with_damage_is_repaired_first",
    ),
    Guard(
        "what was mended while it was compacted is not undone",
        REWRITING,
        "        if old is not compacted.old or old.repairs != compacted.repairs or self._damaged_in(sealed.span):\n",
        "        if False:\n",
        shown_by=REWRITTEN + "test_what_was_mended_meanwhile_is_not_undone",
    ),
    Guard(
        "the compacted form is synced before it has its name",
        REWRITING,
        "            file.sync()\n            file.drop_cache()\n",
        "            file.drop_cache()\n",
        shown_by=REWRITTEN + "test_compaction_survives_a_stop_after_every_operation",
    ),
    Guard(
        "the compacted form is read back from the medium",
        REWRITING,
        "            file.sync()\n            file.drop_cache()\n",
        "            file.sync()\n",
        shown_by=SCENES + "test_a_write_that_the_disk_drops_is_seen_before_the_old_form_goes",
    ),
    Guard(
        "the compacted form is read back whole",
        "storage/install.py",
        "            decoded = self._verified(segment, offset, sequence, entry.length if entry is not None else 0)\n",
        "            decoded = segment.record_header(offset)\n",
        shown_by=REWRITTEN + "test_a_segment_with_damage_is_repaired_first",
    ),
    Guard(
        "damage in one segment keeps no other from being compacted",
        COMPACTING,
        "        except (LogContradiction, RecordsElsewhere, RecordAbsent, RecordCorrupt, FormatError) as error:\n",
        "        except RecordsElsewhere as error:\n",
        shown_by=SCENES + "test_damage_in_one_segment_keeps_no_other_from_being_compacted",
    ),
    Guard(
        "a tombstone that is evicted makes no damage of its stubs",
        "storage/walk.py",
        "                self._walk.tombstone_elsewhere(sequence)\n",
        "                continue\n",
        shown_by="tests/storage/test_evicted.py::"
        "test_a_stub_whose_tombstone_is_evicted_is_no_damage_to_who_reads_the_files",
    ),
)
