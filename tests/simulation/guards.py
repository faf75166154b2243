"""Every guard of the protocol, and how to take it away: the list that script/mutants walks through.

A mutant is one exact replacement in one source file; a guard that has moved is an error of this list.
"""

from tests.simulation.guard import Guard
from tests.simulation.guards_replication import REPLICATION_GUARDS

LEADER = "replication/core/leader.py"
FOLLOWER = "replication/core/follower.py"
ELECTION = "replication/core/election.py"
ELIGIBILITY = "replication/core/eligibility.py"
STREAMS = "replication/core/streams.py"
PROPOSALS = "replication/core/proposals.py"
WRITER = "replication/core/statewriter.py"
COMMIT = "replication/core/commit.py"
REPLICA = "replication/core/replica.py"
ROLES = "replication/core/roles.py"
RECOVERY = "storage/recovery.py"
LOG = "storage/log.py"


GUARDS = (
    *REPLICATION_GUARDS,
    Guard(
        "maximal set: proposed members count",
        WRITER,
        "            members |= state.in_sync\n",
        "            members |= frozenset()\n",
    ),
    Guard(
        "maximal set: removed members count until it is confirmed",
        WRITER,
        "        members = self.confirmed.state.in_sync\n        for state in self._possible():\n"
        "            members |= state.in_sync\n",
        "        possible = self._possible()\n"
        "        members = possible[-1].in_sync if possible else self.confirmed.state.in_sync\n",
    ),
    Guard(
        "an unknown write may be applied",
        WRITER,
        "        self._unresolved.append(awaited.state)\n",
        "",
    ),
    Guard("copies required", COMMIT, "    if in_sync_size < minimum_copies:\n", "    if in_sync_size < 0:\n"),
    Guard(
        "own disk counts as well",
        COMMIT,
        "    reached = own_durable\n",
        "    reached = max([own_durable, *confirmed.values()])\n",
    ),
    Guard(
        "a joiner holds everything committed",
        STREAMS,
        "stream.confirmed.sequence >= enough",
        "stream.confirmed.sequence >= 0",
    ),
    Guard(
        "what is confirmed is durable",
        FOLLOWER,
        "Confirmed(stream.epoch, to_point(situation.ledger.durable), received)",
        "Confirmed(stream.epoch, to_point(situation.ledger.end), received)",
    ),
    Guard(
        "only members of the set lead",
        ELIGIBILITY,
        "    if own not in state.in_sync:\n",
        "    if False:\n",
    ),
    Guard(
        "members are incarnations, not names",
        ELIGIBILITY,
        "    if own not in state.in_sync:\n",
        "    if own.id not in {member.id for member in state.in_sync}:\n",
    ),
    Guard(
        "silent members are waited for after a reboot",
        ELECTION,
        "        return rebooted or meeting\n",
        "        return meeting\n",
    ),
    Guard(
        "the promise is on disk before the election is won",
        ELECTION,
        "if self.stage is not Stage.PROMISING or situation.promise < self.epoch or not situation.state_fresh:\n",
        "if self.stage is not Stage.PROMISING or not situation.state_fresh:\n",
    ),
    Guard(
        "a copied tail is proved by the chain",
        ELECTION,
        "            and event.chain == chain_after(end.chain, event.header)\n",
        "",
    ),
    Guard(
        "a deposed leader stops",
        LEADER,
        '            self.over = "another change of the cluster state deposed it"\n            return\n',
        "            return\n",
    ),
    Guard(
        "a change behind its back ends a leadership",
        LEADER,
        '            self.over = "the cluster state was changed behind its back"\n            return\n',
        "            return\n",
    ),
    Guard(
        "a higher promise ends a leadership",
        LEADER,
        '            self.over = f"a follower has promised epoch {message.promise}"\n',
        "",
    ),
    Guard(
        "the epoch record is durable before the lead is active",
        LEADER,
        "        if situation.ledger.durable.sequence < self.epoch_record or not self._may_write():\n",
        "        if not self._may_write():\n",
    ),
    Guard(
        "nothing is committed before the lead is active",
        LEADER,
        "        if self.phase is not Phase.ACTIVE or reached <= situation.told.sequence:\n",
        "        if reached <= situation.told.sequence:\n",
    ),
    Guard(
        "no number without a complete catalogue",
        LEADER,
        "        if not situation.ports.catalogue.complete:\n            return",
        "        if False:\n            return",
    ),
    Guard(
        "streams without progress are hung up on",
        LEADER,
        "        self.streams.hang_up(self.uncommitted_bytes // DISK_BYTES_PER_MS)\n",
        "",
    ),
    Guard(
        "a refused segment is not sent again",
        "replication/feeder.py",
        "            self._refused[link] = stream.alone\n",
        "            pass\n",
    ),
    Guard(
        "a duplicate is answered when its record is committed",
        PROPOSALS,
        "            self._await(ticket, sound, Verdict.DUPLICATE)\n",
        '            self._settle(ticket, Verdict.DUPLICATE, "")\n',
    ),
    Guard(
        "a conflict is refused when its record is committed",
        PROPOSALS,
        "            self._await(ticket, others[-1], Verdict.CONFLICT_REFUSED)\n",
        '            self._settle(ticket, Verdict.CONFLICT_REFUSED, "")\n',
    ),
    Guard(
        "answers that rest on a record end with the lead",
        PROPOSALS,
        "        self._awaiting.clear()\n",
        "",
    ),
    Guard(
        "a failed disk fences",
        REPLICA,
        '        situation.fenced = situation.fenced or f"the disk failed: {event.reason}"\n',
        "        situation.fenced = situation.fenced\n",
    ),
    Guard(
        "a node that stopped writing answers no stream",
        FOLLOWER,
        "            return False  # it takes nothing, so it is not worth feeding\n",
        "            pass\n",
    ),
    Guard(
        "a transfer hint ends",
        ROLES,
        "heeds = state.transfer is not None and not hinted and not patience_over",
        "heeds = state.transfer is not None and not hinted",
    ),
    Guard(
        "a new session reads the state again",
        REPLICA,
        "        if event.session is not Session.SUSPENDED:\n            situation.state_fresh = False\n",
        "",
    ),
    Guard(
        "poisoned segment",
        "storage/appender.py",
        "        if self._failure is not None:\n            raise SegmentPoisoned(",
        "        if False:\n            raise SegmentPoisoned(",
    ),
    Guard(
        "lost+found before cutting",
        LOG,
        "        names = [self._save(number) for number in range(sequence + 1, self._end.sequence + 1)]\n",
        "        names: list[str] = []\n",
    ),
    Guard(
        "a torn tail is kept in lost+found",
        LOG,
        "            names.append(self._lost.save_damaged(tail.first, pieces))\n",
        "            pass\n",
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
    ),
    Guard(
        "a lost entry is written again",
        RECOVERY,
        "                if found != entry:\n                    self._write_entry(found)\n",
        "",
    ),
    Guard(
        "a promise is read from the medium",
        "storage/metadata.py",
        "        self._file.sync()\n        self._file.drop_cache()\n",
        "",
    ),
    Guard(
        "the promise never falls",
        "storage/metadata.py",
        "            epoch=max(old.epoch, epoch or 0),\n",
        "            epoch=epoch if epoch is not None else old.epoch,\n",
    ),
    Guard(
        "the promise is fsynced",
        "storage/metadata.py",
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
        "replication/lookup.py",
        "        return leadership is not None and leadership.knows_commits and fresh and complete\n",
        "        return leadership is not None and leadership.knows_commits and complete\n",
    ),
    Guard(
        "absent is said by a leader that knows what is committed",
        "replication/lookup.py",
        "        return leadership is not None and leadership.knows_commits and fresh and complete\n",
        "        return fresh and complete\n",
    ),
    Guard(
        "a damaged record is not absent",
        "replication/lookup.py",
        "absent=not self._current(uid) and self._may_say_absent())",
        "absent=self._may_say_absent())",
    ),
    Guard(
        "a truncation that fails fences",
        "replication/writing.py",
        "        except StorageError as error:\n            self.log_failed(error)\n            return\n",
        "        except ZeroDivisionError:\n            return\n",
    ),
    Guard(
        "a record from a peer is checked against its digest",
        "replication/incoming.py",
        "        if (staged.digest, staged.dataset_digest) != _expected(self._message, staged):\n",
        "        if False:\n",
    ),
)
