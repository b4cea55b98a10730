"""
Faults that must cost nothing: workers replaced, killed and paused under load, counted by sequence numbers.

`application.py` is the site: a Channels consumer that echoes and is a member of a group, and a few plain
HTTP paths. `load.py` is the clients, `scenarios.py` what happens to the server meanwhile and what may be lost.
tests/end_to_end/test_faults.py runs a short form of each, `scripts/soak` the long one.
"""
