"""The guards of a standalone node's tier: who leads by a file alone proves there that nobody else does."""

from tests.simulation.guard import Guard

CLAIMS = "replication/tier/claims.py"
CLAIMING = "tests/tier/test_claims.py::"

STANDALONE_GUARDS = (
    Guard(
        "of the log nothing is put before the tier is claimed",
        CLAIMS,
        "            await self._claimed()\n",
        "            pass\n",
        shown_by=CLAIMING + "test_of_the_log_nothing_is_put_by_who_leads_without_a_claim",
    ),
    Guard(
        "of the log nothing is deleted before the tier is claimed",
        CLAIMS,
        "        await self._may_change(key)\n        await self._store.delete(key)\n",
        "        await self._store.delete(key)\n",
        shown_by=CLAIMING + "test_of_the_log_nothing_is_put_by_who_leads_without_a_claim",
    ),
    Guard(
        "a claim that is not of this history ends the node",
        CLAIMS,
        "        if strangers := sorted(set(found) - (await self._history()).claims):\n",
        "        if strangers := sorted(set(found) - set(found)):\n",
        shown_by=CLAIMING + "test_a_history_holds_the_tier_over_its_starts_and_no_other_gets_it",
    ),
    Guard(
        "a claim is looked for once it is put",
        CLAIMS,
        "                if mine not in (found := await self._listed()):\n",
        "                if False:\n",
        shown_by=CLAIMING + "test_two_that_claim_at_once_both_stop",
    ),
    Guard(
        "a claim is of this history before it is put",
        CLAIMS,
        "                await asyncio.to_thread(self._remember, [mine])\n"
        '                await self._store.put(mine.key, b"{}\\n")\n',
        '                await self._store.put(mine.key, b"{}\\n")\n'
        "                await asyncio.to_thread(self._remember, [mine])\n",
        shown_by=CLAIMING + "test_a_start_that_was_killed_at_its_put_knows_its_claim",
    ),
    Guard(
        "two looks at once keep each other's claims",
        CLAIMS,
        "        with self._writing:\n",
        "        if True:\n",
        shown_by=CLAIMING + "test_two_looks_at_once_lose_no_claim_of_this_history",
    ),
    Guard(
        "an old copy of a disk does not lead alone once the tier was counted",
        CLAIMS,
        "        if alone and known.markers is not None and (strangers",
        "        if False and known.markers is not None and (strangers",
        shown_by=CLAIMING + "test_a_disk_of_a_time_without_the_tier_does_not_lead_once_the_tier_was_counted",
    ),
    Guard(
        "markers are looked at again once the claim is there",
        CLAIMS,
        "                await self._look(alone=alone)\n                self._looked = True\n",
        "                self._looked = True\n",
        shown_by=CLAIMING + "test_a_marker_that_comes_between_the_look_and_the_claim_is_seen",
    ),
    Guard(
        "a marker is of this history before it is put",
        CLAIMS,
        "                await self._claims.note(marker)\n",
        "                pass\n",
        shown_by=CLAIMING + "test_a_disk_of_a_time_without_the_tier_does_not_lead_once_the_tier_was_counted",
    ),
    Guard(
        "a name in a directory tier counts once its directory is synced",
        "replication/tier/directory.py",
        "                        _sync_directory(root, os.path.dirname(key))\n                        raise\n",
        "                        raise\n",
        shown_by="tests/tier/test_directory.py::test_a_name_that_was_never_synced_is_not_there_before",
    ),
)
