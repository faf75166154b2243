"""What the operating system grants this process."""

import resource


def raise_descriptor_limit() -> int:
    """Allow as many open files as the hard limit does, and return how many: segments and associations need them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
