"""Making copies: the decision core, its driver, ZooKeeper and the stream between nodes."""
