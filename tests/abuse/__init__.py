"""
Hostile and unlucky clients, as black-box tests of a running server process.

Every scenario is a sentence, a few bounds and a function that behaves badly towards a server it did not
build: it knows a port, a process id and the application of application.py that the server runs. Nothing is
looked up inside the server, so the same scenarios judge any ASGI server, which is how they are shown to be
able to fail.

A scenario has two scales. *Full* is the figures that the server promises with default settings; *short* is
small enough for every run of the test suite and still fails when the promise is broken: where a timeout
would have to be sat out, the server's option for it is shortened, and where the server could hoard, it is
offered several times the memory it may grow by.

application.py          the ASGI application under test, and the counters it answers GET /stats with
server_process.py       one server: started, watched through /proc, ended
client.py               sockets, just enough HTTP/1.1, floods, and the probe that asks for the others
websocket_client.py     frames by hand, so that wrong ones can be sent
scenario.py             what a scenario, a bound and an outcome are; what a running scenario is given
http_scenarios.py       the scenarios themselves
websocket_scenarios.py
runner.py               runs scenarios, prints the table; `scripts/abuse` is its command line

This file imports nothing: the server under test imports `tests.abuse.application`, and what it imports
counts as its memory.
"""
