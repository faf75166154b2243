"""The guards of the log, of the promise file, and of the driver that writes, reads and tells."""

from tests.simulation.guard import Guard

RECOVERY = "storage/recovery.py"
LOG = "storage/log.py"
METADATA = "storage/metadata.py"
LOOKUP = "replication/lookup.py"

LOGGING = "tests/storage/test_guards_log.py::"
DAMAGE = "tests/storage/test_log_damage.py::"
REGRESSIONS = "tests/simulation/test_regressions.py::"

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
    Guard("recovery reads the medium, not the cache", RECOVERY, "            segment.file.drop_cache()\n", ""),
    Guard(
        "recovery syncs what a killed process left",
        RECOVERY,
        "            segment.file.sync()\n            segment.file.drop_cache()\n",
        "",
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
    ),
    Guard(
        "what is read is checked against its digest",
        "storage/reader.py",
        "            verify_payload(header, iter((data,)))\n",
        "",
    ),
    Guard(
        "what was saved damaged is not offered again",
        "replication/rejoin.py",
        "    if (staged.digest, staged.dataset_digest) != (decoded.header.digest, decoded.header.dataset):\n",
        "    if False:\n",
    ),
    Guard(
        "a reboot is remembered until the log was found whole",
        "replication/opening.py",
        '    promise.store(host_boot=host_boot + (UNSETTLED if unsettled else ""))\n',
        "    promise.store(host_boot=host_boot)\n",
    ),
    Guard(
        "absent is said by a leader that is fresh",
        LOOKUP,
        "        return leadership is not None and leadership.knows_commits and fresh and complete\n",
        "        return leadership is not None and leadership.knows_commits and complete\n",
        shown_by="tests/simulation/test_absence.py"
        "::test_a_leader_that_nobody_reaches_does_not_deny_what_its_successor_promised",
    ),
    Guard(
        "absent is said by a leader that knows what is committed",
        LOOKUP,
        "        return leadership is not None and leadership.knows_commits and fresh and complete\n",
        "        return fresh and complete\n",
    ),
    Guard(
        "a damaged record is not absent",
        LOOKUP,
        "absent=not self._current(uid) and self._may_say_absent())",
        "absent=self._may_say_absent())",
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
    ),
)
