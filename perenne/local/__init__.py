"""A whole cluster on this machine: ZooKeeper and nodes on loopback, for trying things out and for tests."""
