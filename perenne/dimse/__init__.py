"""DICOM associations: an upper layer of our own on the acceptor side, and the storage service."""
