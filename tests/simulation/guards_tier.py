"""The guards of the tier: filled before it is claimed, counted after it was checked, taken over by its tip."""

from tests.simulation.guard import Guard

LEADER = "replication/core/leader.py"
IN_SYNC = "replication/core/insync.py"
RECOVERING = "replication/core/recovering.py"
TAKEOVER = "replication/core/takeover.py"
TIER_SIDE = "replication/core/tierside.py"
ELIGIBILITY = "replication/core/eligibility.py"
COVERAGE = "replication/core/coverage.py"
MEMBERSHIP = "replication/core/membership.py"
TIP = "replication/tier/tip.py"

TIER_GUARDS = (
    Guard(
        "the tier is filled before it is claimed",
        IN_SYNC,
        "        if self._tier.upto(since.sequence + 1) >= situation.ledger.end.sequence:\n",
        "        if True:\n",
    ),
    Guard(
        "nothing is numbered while the tier is filled",
        LEADER,
        "        if self.tier.entering is not None:\n            return  # it is filled",
        "        if False:\n            return  # it is filled",
    ),
    Guard(
        "the tier is claimed from the commit point on",
        IN_SYNC,
        "            self._tier.entering = situation.told\n",
        "            self._tier.entering = situation.ledger.end\n",
    ),
    Guard(
        "the tier is required while it enters",
        IN_SYNC,
        "        return members | {TIER_MEMBER} if self._tier.entering is not None else members\n",
        "        return members\n",
    ),
    Guard(
        "the tier does not count before its claim is confirmed",
        LEADER,
        "self._reached(self.tier.counted if self._claim() is not None else 0)",
        "self._reached(self.tier.counted if self._claim() is not None else self.tier.upto(1))",
    ),
    Guard(
        "check after PUT",
        LEADER,
        "        self.tier.check(self._reached(self.tier.upto(claim.first)), self._writer.confirmed.version)\n",
        "        self.tier.counted = self._reached(self.tier.upto(claim.first))\n",
    ),
    Guard(
        "PUT before check",
        LEADER,
        "        self.tier.check(self._reached(self.tier.upto(claim.first)), self._writer.confirmed.version)\n",
        "        self.tier.check(self._reached(self._situation.ledger.end.sequence), self._writer.confirmed.version)\n",
    ),
    Guard(
        "no check while a change of state is unresolved",
        LEADER,
        "        idle = not self._writer.busy and not self._writer.unresolved and self._situation.state_fresh\n",
        "        idle = True\n",
    ),
    Guard(
        "the marker comes before the first count",
        LEADER,
        "        if claim is None or not idle or not self.tier.marked:\n",
        "        if claim is None or not idle:\n",
    ),
    Guard(
        "what the tier was counted for is forgotten when it leaves",
        TIER_SIDE,
        "        self.counted, self.marked = 0, False\n        self._check = self._marking = None\n",
        "        pass\n",
    ),
    Guard(
        "an unknown count is believed only when it is seen",
        TIER_SIDE,
        "        if floor is not None and floor.point == check.point:\n",
        "        if True:\n",
    ),
    Guard(
        "tierfloor is read after the election",
        RECOVERING,
        "        self._floor_read = TIER_MEMBER not in won.in_sync\n",
        "        self._floor_read = self.takeover is None\n",
    ),
    Guard(
        "a member leads only with what the tier was counted for",
        RECOVERING,
        "        elif floor is not None and not self._situation.ledger.holds(floor.point):\n",
        "        elif False:\n",
    ),
    Guard(
        "LIST after the epoch's CAS",
        TAKEOVER,
        "        self.stage = Stage.READING\n        self.failed",
        "        self.stage = Stage.LISTING\n        self.failed",
    ),
    Guard(
        "what was rebuilt holds everything that was counted",
        TAKEOVER,
        "            if not (situation.ledger.holds(point) if below else branch.contains(point)):\n",
        "            if False:\n",
    ),
    Guard(
        "a takeover stands on the claim's beginning",
        ELIGIBILITY,
        "    if before is None or before.chain != state.tier.chain_before:\n",
        "    if before is None:\n",
    ),
    Guard(
        "what is not on the branch is cut before the rebuild goes on",
        TAKEOVER,
        "        if common != situation.ledger.end:\n",
        "        if False:\n",
    ),
    Guard(
        "what comes from the bucket is proved by the chain",
        TAKEOVER,
        "            and event.chain == chain_after(end.chain, event.header)\n",
        "",
    ),
    Guard(
        "nothing is written in the new epoch before the rebuild is on the disk",
        TAKEOVER,
        "        if self.stage is not Stage.WRITING or situation.ledger.durable != situation.ledger.end:\n",
        "        if self.stage is not Stage.WRITING:\n",
    ),
    Guard(
        "the tip is the highest epoch's, not the highest number",
        TIP,
        "        top = max((run.end for run in self._runs), default=LogPosition(0, 0))\n",
        "        top = max((run.end for run in self._runs), key=lambda end: end.sequence, default=LogPosition(0, 0))\n",
    ),
    Guard(
        "the branch is followed by its chain",
        TIP,
        "        if self._first.follows(own[-1].chain):\n",
        "        if True:\n",
    ),
    Guard(
        "a place in the tier is found by chain",
        COVERAGE,
        "point.position == run.end and point.chain[:PREFIX_BYTES] == run.chain_prefix:",
        "True:",
    ),
    Guard(
        "a bucket that knows of a later epoch ends the lead",
        TIER_SIDE,
        "        elif situation.tier_epoch > epoch:\n",
        "        elif False:\n",
    ),
    Guard(
        "a bucket that knows of a later change ends the lead",
        TIER_SIDE,
        "        if event.counter > counter:\n",
        "        if False:\n",
    ),
    Guard(
        "one put at a time",
        TIER_SIDE,
        "        if self._putting is not None or self.coverage is None:\n",
        "        if self.coverage is None:\n",
    ),
)
