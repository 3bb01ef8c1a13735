"""Benchmark of a warehouse with very many sources: `status`, `connect()`, `sql`, the definitions, Dagster's partitions and its asset page.

The sources are copies of the tables of one small source, as files, with its name put in; what is measured does not depend on what the rows say.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import psutil
import pyarrow as pa
from common import write_report

CLAIM = "With 10,000 sources `status` and `connect()` take less than 5 s"
CONFIG = """\
warehouse: ./warehouse
transcoded_clips: {enabled: false}
clips: {splitter: {clip_len_s: 2, min_clip_len_s: 0.5}}
"""
