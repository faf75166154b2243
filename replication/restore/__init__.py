"""The way back from the tier: a data directory, a whole cluster, or a look at the past, from the bucket alone.

plan (which objects, by their names: pure), cutting (records out of bytes, each proved: pure), seams (the chain where
epochs meet, in objects that may be damaged: pure), fetching (objects as a bounded stream), filling (the log that takes
them), beyond (what a gap leaves behind, saved aside), engine (the loop over all of them), state (what the coordination
service is told), report (what was restored, and what could not be).
"""
