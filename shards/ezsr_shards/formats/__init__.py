"""Formats: what recordings look like on disk, one file a format, bytes to columns.

What a reader makes of a recording that is not as it should be is the same in all of them:

refused    whatever is cut, contradicts itself, claims more than its bytes hold, unfolds beyond
           `most_events`, leads to other files, wants code to be run, or has numbers that no camera
           gives: RecordingError, of which the importer counts the reason and lists the detail.
           Such a recording is lost whole. Nothing of it is guessed, and no part of it is kept.
repaired   what sound cameras and programs do: events that come late (sorted by time), counters
           that turn over (unwound), words before the first time or row of a stream (left out),
           marks, triggers and frames between the events (passed over).
not seen   damage that leaves a file as another camera might have written it, as one other bit in
           a time or a pixel: most formats have no checksums. Those of zip, LZ4, Zstandard and
           deflate are checked.

Each reader's docstring names its reasons, and what its format adds to this.
"""
