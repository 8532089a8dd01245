"""Work that is shared out to the machines of a Ray cluster, and comes back in order.

Ray's plain actors are used, not its data sets or its own retries of tasks: a shard is tried again only by `pool`, which
thereby knows which shard a lost worker had, finds the image that ends its workers, and counts none twice; and each
worker loads its engine once.
"""
