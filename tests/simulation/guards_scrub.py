"""The guards of the scrub: what the medium has lost is seen on the medium, handed on, and made good."""

from tests.simulation.guard import Guard

SCRUBBER = "replication/scrubber.py"
SCENES = "tests/simulation/test_scrub.py::"

SCRUB_GUARDS = (
    Guard(
        "what a scrub finds is known to be damaged from then on",
        SCRUBBER,
        "        damaged = sum(self._judged(sequence) for sequence in suspects)\n",
        "        damaged = len(suspects)\n",
        shown_by=SCENES + "test_a_payload_that_rotted_is_found_and_mended",
    ),
    Guard(
        "a record is judged by the medium, not by the cache",
        "storage/reader.py",
        "                    return True\n            found.file.drop_cache()\n        try:",
        "                    return True\n        try:",
        shown_by=SCENES + "test_a_payload_that_rotted_is_found_and_mended",
    ),
    Guard(
        "a deep scrub reads payloads",
        SCRUBBER,
        "                walk = Walk(self._directory, read.depth is Depth.DEEP, medium=True)\n",
        "                walk = Walk(self._directory, False, medium=True)\n",
        shown_by=SCENES + "test_a_payload_that_rotted_is_found_and_mended",
    ),
    Guard(
        "what lies around the records is written anew",
        SCRUBBER,
        "            await self._frame(done.segment)\n",
        "",
        shown_by=SCENES + "test_what_lies_around_the_records_is_written_anew",
    ),
    Guard(
        "what lies around the records is judged by the medium, not by the cache",
        "storage/rewriting.py",
        "        segment.file.drop_cache()  # what is in memory may be right, and the medium without it\n",
        "",
        shown_by=SCENES + "test_what_lies_around_the_records_is_written_anew",
    ),
    Guard(
        "a record that nobody else has comes from the tier",
        "replication/mender.py",
        "        if replicator.tiering is not None:\n            lent",
        "        if False:\n            lent",
        shown_by=SCENES + "test_the_last_node_is_mended_from_the_bucket",
    ),
)
