"""The leader lost with its disk, zombies whose PUTs come late, and objects that the bucket loses or alters.

Once the set is {A, tier} the bucket holds the only other copy: whoever leads next does so with exactly what was
counted there, or nobody does.
"""

from collections.abc import Callable

from perenne.local.cluster import LocalNode
from replication.tier.keys import Run
from tests.faults.arena import ZOOKEEPER, Arena, FaultFailed
from tests.faults.fault import fault
from tests.faults.tiered import TieredArena, tiered

# The leader dies


@fault("leader and its disk lost while no other node is left", tier=True)
def leader_lost(arena: Arena) -> None:
    own = tiered(arena)
    leader = own.left_with_tier()
    arena.hold(0.5, 3)
    own.lose(leader)
    if arena.chance.random() < 0.5:
        arena.start_node(leader)  # an empty disk that comes back first: it may lead with what the bucket gives it
        arena.hold(2, 6)
    arena.start_node(own.followers(leader)[0])
    own.await_lead(*arena.nodes)
    arena.hold(1, 2)


@fault("leader and its disk lost while the tier enters the set", tier=True)
def leader_lost_as_the_tier_enters(arena: Arena) -> None:
    """At any moment of the change: what was acknowledged lies with those who were there before, or in the bucket."""
    own = tiered(arena)
    leader = own.leading()
    for node in own.followers(leader):
        arena.process(node).kill()
    arena.hold(0, 2.5)
    own.lose(leader)
    for node in own.followers(leader):
        arena.start_node(node)
    own.await_lead(*own.followers(leader))
    arena.hold(1, 2)


@fault("leader and its disk lost while a follower comes back", tier=True)
def leader_lost_as_a_follower_comes(arena: Arena) -> None:
    own = tiered(arena)
    leader = own.left_with_tier()
    arena.hold(0.5, 2)
    follower = own.followers(leader)[0]
    arena.start_node(follower)
    arena.until(follower.ready, 20)
    arena.hold(0, 2)
    own.lose(leader)
    own.await_lead(follower)
    arena.hold(1, 2)


@fault("leader killed and started while no other node is left", tier=True)
def leader_bounced_alone(arena: Arena) -> None:
    own = tiered(arena)
    leader = own.left_with_tier()
    arena.hold(0.5, 2)
    arena.process(leader).kill()
    arena.start_node(leader)
    own.await_lead(leader)
    arena.hold(1, 2)


@fault("leader killed while no other node is left, a follower takes over", tier=True)
def follower_takes_over(arena: Arena) -> None:
    """The old leader comes back with records that nobody promised, and cuts them into lost+found."""
    own = tiered(arena)
    leader = own.left_with_tier()
    arena.hold(0.5, 2)
    arena.process(leader).kill()
    follower = own.followers(leader)[0]
    arena.start_node(follower)
    own.await_lead(follower)
    arena.hold(1, 3)
    arena.start_node(leader)
    arena.hold(1, 3)


@fault("leader killed while no other node is left, the bucket away during the takeover", tier=True)
def bucket_away_during_takeover(arena: Arena) -> None:
    own = tiered(arena)
    leader = own.left_with_tier()
    arena.hold(0.5, 2)
    own.lose(leader)
    follower = own.followers(leader)[0]
    arena.start_node(follower)
    arena.hold(0, 4)
    own.store.kill()
    arena.hold(2, 4)
    own.start_store()
    own.await_lead(follower, seconds=60)
    arena.hold(1, 2)


@fault("ZooKeeper stopped while no other node is left, the leader killed or not", tier=True)
def zookeeper_stopped_alone(arena: Arena) -> None:
    own = tiered(arena)
    leader = own.left_with_tier()
    arena.hold(0.5, 1.5)
    arena.kill_zookeeper()
    arena.hold(1, 4)
    if arena.chance.random() < 0.5:
        own.lose(leader)
        arena.start_node(own.followers(leader)[0])
    arena.start_zookeeper()
    arena.hold(2, 4)


# Zombies


def _zombie(own: TieredArena) -> tuple[LocalNode, LocalNode]:
    """A leader that is stopped while one of its PUTs is under way, and its successor through the tier.

    The PUT reaches the store once the successor has begun to look at the bucket, or once it leads.
    """
    zombie = own.left_with_tier()
    own.hold(0.5, 1.5)
    own.hold_put(zombie)
    own.hold(0, 1)
    own.suspend(zombie)
    successor = own.followers(zombie)[0]
    own.start_node(successor)
    if own.chance.random() < 0.5:
        before = own.store_lines.seen(successor.id, "GET")
        own.until(lambda: own.store_lines.seen(successor.id, "GET") > before, 40)
        own.hold(0, 0.7)
        own.let_through()
        own.await_lead(successor)
    else:
        own.await_lead(successor)
        own.hold(0, 1)
        own.let_through()
    own.hold(0.5, 1.5)
    return zombie, successor


@fault("a stopped leader's PUT comes after its successor was elected", tier=True)
def late_put(arena: Arena) -> None:
    own = tiered(arena)
    _zombie(own)
    own.resume()
    arena.hold(2, 4)


@fault("a stopped leader's PUT comes late, then its successor is lost with its disk", tier=True)
def late_put_then_loss(arena: Arena) -> None:
    """The zombie itself takes over through the bucket, in which its own PUT is an orphan, or not."""
    own = tiered(arena)
    zombie, successor = _zombie(own)
    own.lose(successor)
    own.resume()
    own.await_lead(zombie, seconds=60)
    arena.hold(1, 2)


@fault("leader cut from followers, then from ZooKeeper, but not from the bucket", tier=True)
def living_zombie(arena: Arena) -> None:
    """It goes on to put while another takes over through the same bucket."""
    own = tiered(arena)
    zombie = own.leading()
    others = own.followers(zombie)
    for other in others:
        arena.lines.cut(zombie.id, other.id)
        arena.lines.cut(other.id, zombie.id)
    # With three nodes only one of the others may be left for the tier to be needed.
    for other in others[1:]:
        arena.process(other).kill()
    own.await_tier(zombie)
    arena.hold(0.5, 2)
    arena.lines.cut(zombie.id, ZOOKEEPER)
    arena.lines.cut(ZOOKEEPER, zombie.id)
    own.await_lead(others[0])
    arena.hold(1, 3)


# The bucket loses or alters an object


def _harmed(arena: Arena, harm: Callable[[TieredArena, Run], None]) -> tuple[TieredArena, LocalNode]:
    """Harm the newest object that was counted, as the leader dies: no other node may lead by what is left."""
    own = tiered(arena)
    leader = own.left_with_tier()
    arena.hold(0.5, 2)
    run = own.await_counted(leader)
    arena.process(leader).kill()
    harm(own, run)
    follower = own.followers(leader)[0]
    arena.start_node(follower)
    if arena.until(follower.leads, 8):
        raise FaultFailed(f"{follower.id} leads although the bucket lacks {run.key}, which was counted")
    arena.start_node(leader)
    own.await_lead(leader)
    return own, leader


@fault("an object that was counted is lost, and the leader dies", tier=True)
def object_lost(arena: Arena) -> None:
    """The leader's next epoch puts it again: the judge looks for it."""
    _harmed(arena, lambda own, run: own.direct.delete(run.key))
    arena.hold(1, 2)


@fault("an object that was counted is altered, and the leader dies", tier=True)
def object_altered(arena: Arena) -> None:
    """Its true bytes are put back afterwards, as an operator does: nothing looks for them by itself."""
    kept: list[tuple[str, bytes]] = []

    def alter(own: TieredArena, run: Run) -> None:
        true = own.direct.get(run.key)
        kept.append((run.key, true))
        at = arena.chance.randrange(len(true))
        altered = true[:at] + bytes([true[at] ^ 1]) + true[at + 1 :]
        # Half of them under a digest of their own: then nothing but the records can tell.
        own.overwrite(run.key, altered, digest_of=arena.chance.choice((true, altered)))

    own, _ = _harmed(arena, alter)
    for key, true in kept:
        own.overwrite(key, true, digest_of=true)
    arena.hold(1, 2)
