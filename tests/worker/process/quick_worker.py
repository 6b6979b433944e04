"""`python quick_worker.py MISDEED`: the real worker, Celery and all, whose audit processes do `MISDEED` instead of an audit."""

import os
import sys

from telemetry.logs import set_up_logs
from tests.worker.process.bench import misdirect
from worker.__main__ import serve
from worker.settings import load_settings
from worker.warm import build_child_spec

if __name__ == "__main__":
    settings = load_settings()
    set_up_logs(settings.log_level, settings.log_format)
    serve(settings, misdirect(build_child_spec(settings, os.environ), sys.argv.pop(1)))
