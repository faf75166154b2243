"""One node: everything that speaks DICOM or HTTP, and the wiring."""
