"""Decisions only: no clock, socket, disk, thread, ZooKeeper, S3 or DICOM. Events in, effects out."""
