"""ZooKeeper through kazoo, and the standalone file: two implementations of one port."""
