"""The guards of the log, of the promise file, and of the driver that writes, reads and tells."""

from tests.simulation.guard import Guard

RECOVERY = "storage/recovery.py"
LOG = "storage/log.py"
METADATA = "storage/metadata.py"
LOOKUP = "replication/lookup.py"

LOGGING = "tests/storage/test_guards_log.py::"
DAMAGE = "tests/storage/test_log_damage.py::"
REGRESSIONS = "tests/simulation/test_regressions.py::"
ABSENCE = "tests/simulation/test_absence.py::"
ARRIVING = "tests/replication/test_arriving.py::"

LOG_GUARDS = (
    Guard(
        "poisoned segment",
        "storage/appender.py",
        "        if self._failure is not None:\n            raise SegmentPoisoned(",
        "        if False:\n            raise SegmentPoisoned(",
        shown_by=LOGGING + "test_after_a_write_that_failed_nothing_is_said_to_be_durable",
    ),
    Guard(
        "lost+found before cutting",
        LOG,
        "        names = [self._save(number) for number in range(sequence + 1, self._end.sequence + 1)]\n",
        "        names: list[str] = []\n",
        shown_by=LOGGING + "test_what_is_cut_lies_in_lost_and_found_before_the_first_byte_of_it_goes",
    ),
    Guard(
        "a torn tail is kept in lost+found",
        LOG,
        "            names.append(self._lost.save_damaged(tail.first, pieces))\n",
        "            pass\n",
        shown_by="tests/storage/test_crash_recovery.py::test_a_power_cut_with_any_reordering_loses_nothing_synced[0]",
    ),
    Guard(
        "recovery reads the medium, not the cache",
        RECOVERY,
        "            segment.file.drop_cache()\n",
        "",
        shown_by=REGRESSIONS + "test_a_follower_that_stopped_writing_does_not_keep_its_leader_busy",
    ),
    Guard(
        "recovery syncs what a killed process left",
        RECOVERY,
        "            segment.file.sync()\n            segment.file.drop_cache()\n",
        "",
        shown_by=REGRESSIONS + "test_a_follower_that_stopped_writing_does_not_keep_its_leader_busy",
    ),
    Guard(
        "a bad record that was synced is damage, not a torn tail",
        RECOVERY,
        "        if durable or not self.rebooted or sequence <= self.floor:\n",
        "        if False:\n",
        shown_by=DAMAGE + "test_the_last_group_without_a_reboot_or_below_the_floor_is_corruption",
    ),
    Guard(
        "a lost entry is written again",
        RECOVERY,
        "                if found != entry:\n                    self._write_entry(found)\n",
        "",
        shown_by=DAMAGE + "test_a_damaged_entry_is_repaired_from_its_record_at_start",
    ),
    Guard(
        "a promise is read from the medium",
        METADATA,
        "        self._file.sync()\n        self._file.drop_cache()\n",
        "",
        shown_by=REGRESSIONS + "test_a_promise_whose_fsync_failed_is_read_from_the_medium",
    ),
    Guard(
        "the promise never falls",
        METADATA,
        "            epoch=max(old.epoch, epoch or 0),\n",
        "            epoch=epoch if epoch is not None else old.epoch,\n",
        shown_by="tests/storage/test_metadata.py::test_a_promise_survives_and_never_falls",
    ),
    Guard(
        "the promise is fsynced",
        METADATA,
        "            self._file.sync()\n            self._number, self._value = number, new\n",
        "            self._number, self._value = number, new\n",
        shown_by=REGRESSIONS + "test_a_promise_that_only_the_page_cache_holds_is_not_acted_on",
    ),
    Guard(
        "what is read is checked against its digest",
        "storage/reader.py",
        "                verify_rest(decoded, iter((data,)))\n",
        "",
        shown_by=LOGGING + "test_a_record_whose_bytes_were_altered_on_the_medium_is_not_handed_out[1000000]",
    ),
    Guard(
        "what leaves in pieces is checked against its digest first",
        "storage/reader.py",
        "                verify_rest(decoded, found.raw(start, length))\n                piece",
        "                piece",
        shown_by=LOGGING + "test_a_record_whose_bytes_were_altered_on_the_medium_is_not_handed_out[100]",
    ),
    Guard(
        "what was saved damaged is not offered again",
        "replication/rejoin.py",
        "    if (staged.digest, staged.dataset_digest) != (decoded.header.digest, decoded.header.dataset):\n",
        "    if False:\n",
        shown_by=REGRESSIONS + "test_what_was_saved_damaged_is_not_offered_again",
    ),
    Guard(
        "a reboot is remembered until the log was found whole",
        "replication/opening.py",
        '    promise.store(host_boot=host_boot + (UNSETTLED if unsettled else ""))\n',
        "    promise.store(host_boot=host_boot)\n",
        shown_by=REGRESSIONS + "test_a_process_restarted_after_a_reboot_waits_as_the_first_one_did",
    ),
    Guard(
        "what is left of a cut log stays damaged",
        "storage/damage.py",
        "if number <= sequence))",
        "if number < sequence))",
        shown_by=DAMAGE + "test_what_is_left_of_a_cut_log_is_as_damaged_as_before",
    ),
    Guard(
        "what memory shows of a repair is synced before it counts",
        "storage/reader.py",
        "                    found.file.sync()\n",
        "                    pass\n",
        shown_by="tests/simulation/test_mending.py::test_a_repair_that_was_killed_before_its_sync_is_no_repair_yet",
    ),
    Guard(
        "absent is said by a leader that is fresh",
        LOOKUP,
        "        return leads and fresh and complete\n",
        "        return leads and complete\n",
        needless="who is not named in its present session says nothing either, and a client that hears nothing ends it",
    ),
    Guard(
        "absent is said by a leader that knows what is committed",
        LOOKUP,
        "leadership.knows_commits and leadership.named\n",
        "leadership.named\n",
        shown_by=ABSENCE + "test_a_new_leader_denies_nothing_before_it_knows_what_its_predecessor_promised",
    ),
    Guard(
        "absent is said by a leader that is named in its present session",
        LOOKUP,
        "leadership.knows_commits and leadership.named\n",
        "leadership.knows_commits\n",
        shown_by=ABSENCE + "test_who_led_before_its_session_ended_denies_nothing_in_the_next_one",
    ),
    Guard(
        "a damaged record is not absent",
        LOOKUP,
        "absent=self._may_say_absent() and not self._current(uid))",
        "absent=self._may_say_absent())",
        shown_by=ABSENCE + "test_a_leader_does_not_deny_what_its_own_disk_lost_when_it_reaches_nobody_who_has_it",
    ),
    Guard(
        "a truncation that fails fences",
        "replication/writing.py",
        "        except StorageError as error:\n            self.log_failed(error)\n            return\n",
        "        except ZeroDivisionError:\n            return\n",
        shown_by=REGRESSIONS + "test_a_truncation_that_finds_the_disk_full_fences_the_node",
    ),
    Guard(
        "a record from a peer is checked against its digest",
        "replication/incoming.py",
        "        if (staged.digest, staged.dataset_digest) != _expected(self._message, staged):\n",
        "        if False:\n",
        shown_by="tests/replication/test_incoming.py"
        "::test_a_payload_whose_bytes_were_altered_on_the_way_is_not_delivered[Append]",
    ),
    Guard(
        "what another node serves is checked against the digest that it names",
        "replication/incoming.py",
        "    if isinstance(message, LookupAnswer):\n        return message.digest,",
        "    if isinstance(message, LookupAnswer):\n        return staged.digest,",
        shown_by="tests/replication/test_incoming.py"
        "::test_a_payload_whose_bytes_were_altered_on_the_way_is_not_delivered[LookupAnswer]",
    ),
    Guard(
        "a name is durable with its directory",
        "storage/disk.py",
        "        for directory in {os.path.dirname(old), os.path.dirname(new)}:\n",
        "        for directory in set[str]():\n",
        shown_by="tests/storage/test_directories.py::test_a_change_of_names_is_synced_with_its_directories[rename]",
    ),
    Guard(
        "a segment that comes in is durable when it counts as proved",
        "replication/arriving.py",
        "        await asyncio.wrap_future(self._settled)\n",
        "        pass\n",
        shown_by=ARRIVING + "test_what_the_disk_did_not_keep_is_not_proved[1]",
    ),
    Guard(
        "one damaged record refuses the whole segment",
        "replication/arriving.py",
        "            raise self._failure\n",
        "            pass\n",
        shown_by=ARRIVING + "test_one_damaged_record_refuses_all_of_it",
    ),
    Guard(
        "what has not come yet is not looked at",
        "storage/install.py",
        "min(PIECE, self._arrived - offset)",
        "min(PIECE, self._size - offset)",
        shown_by="tests/storage/test_log_damage.py::test_what_has_not_come_yet_is_not_looked_at",
    ),
    Guard(
        "a segment that cannot be taken over is answered",
        "replication/writing.py",
        "        except Exception:  # such as no descriptor left: unanswered, this node would follow nobody\n",
        "        except ZeroDivisionError:\n",
        shown_by=REGRESSIONS + "test_a_segment_that_cannot_be_taken_over_for_whatever_reason_is_answered",
    ),
    Guard(
        "what is current is said by an index that has come by all that could be",
        LOOKUP,
        "        if not reach.current(first.sequence, newest=newest):\n",
        "        if False:\n",
        shown_by=REGRESSIONS
        + "test_who_has_not_indexed_a_segment_yet_does_not_take_the_second_of_a_name_for_the_first",
    ),
    Guard(
        "an offline repair that replaces the end makes the node ask the others",
        "perenne/cli/repair_offline.py",
        "        if max(damaged, default=0) > end:\n            unsettle(node)\n",
        "",
        shown_by="tests/cli/test_interrupted_offline.py::"
        "test_a_repair_that_was_killed_anywhere_leaves_no_log_that_ends_too_early_and_may_lead",
    ),
    Guard(
        "an offline repair takes no record of another branch for the last one",
        "perenne/cli/repair_offline.py",
        "            _refuse_another_branch(found, epoch or 0, node.promise)\n",
        "            pass\n",
        shown_by="tests/cli/test_repair_proof.py::test_no_record_of_another_branch_takes_the_place_of_the_last_one",
    ),
    Guard(
        "a log that lacks an older segment is not taken for whole",
        "storage/log.py",
        "sorted(remembered | found.suspected)",
        "sorted(remembered)",
        shown_by="tests/storage/test_log_damage.py::"
        "test_a_log_without_one_of_its_older_segments_is_not_taken_for_whole",
    ),
    Guard(
        "a poisoned log is reported, whatever it came by",
        "storage/writer.py",
        "        if self._log.failure is not None and not self._poisoned:\n",
        "        if False:\n",
        shown_by="tests/storage/test_writer.py::test_a_call_that_poisons_the_log_is_reported_as_a_group_is",
    ),
    Guard(
        "want of room does not hide that the log is poisoned",
        "storage/writer.py",
        "        if failure is not None and self._log.failure is None:\n",
        "        if failure is not None:\n",
        shown_by="tests/storage/test_writer.py::"
        "test_a_group_that_lacks_room_and_cannot_be_synced_is_not_reported_as_a_full_disk",
    ),
)
