"""
What users of workers rely on: sockets outlive code, nothing lost looks like success, nothing is left behind.

Under load, and counted, the same is in tests/faults. How workers start and join is in tests/test_worker_process.py.
"""

import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from daphne_like.worker_link import resident_memory
from tests.end_to_end.clients import drain, fetch, random_octets
from tests.end_to_end.clients import connect as connect_tcp
from tests.end_to_end.processes import APPLICATIONS, ServerProcess, eventually, serving

WITHIN = 20.0
SITE = f"{APPLICATIONS}.workers_site:application"
