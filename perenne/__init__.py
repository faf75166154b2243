"""One node: everything that speaks DICOM or HTTP, and the wiring."""

VERSION = "0.1.0"
