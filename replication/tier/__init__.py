"""The tier: an S3-compatible bucket, or a directory on a SAN or NFS mount, as one more replica that never leads.

port (what is asked of it), keys and tip (names, and which objects make the log: pure), s3 and directory (the two
adapters), retrying (own attempts around either), probe (what a store keeps of what it promises).
"""
