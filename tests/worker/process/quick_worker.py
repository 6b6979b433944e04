"""`python quick_worker.py MISDEED`: the real worker, Celery and all, whose audit processes do `MISDEED` instead of an audit."""

import logging
import os
import sys

from tests.worker.process.bench import misdirect
from worker.__main__ import serve
from worker.settings import load_settings
from worker.warm import build_child_spec

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    settings = load_settings()
    serve(settings, misdirect(build_child_spec(settings, os.environ), sys.argv.pop(1)))
