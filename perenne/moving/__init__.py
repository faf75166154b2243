"""Moving archives: what another system left behind into a cluster, and what a cluster holds out into plain files."""
