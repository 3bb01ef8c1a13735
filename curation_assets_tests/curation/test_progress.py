"""Progress: counts, rates, and how often it is told."""

import pytest

from curation_assets.curation.progress import Progress, ProgressUpdate, format_seconds


def test_told_at_the_end_and_now_and_then():
    told = []
    progress = Progress("clips", "mine", 100, told.append, interval_s=1000)
    for _ in range(100):
        progress.add_video(failed=False)
        progress.add_piece(1)
    assert told == []
    progress.finish()
    (update,) = told
    assert (update.num_done, update.num_total, update.eta_s) == (100, 100, pytest.approx(0))
    eager = Progress("clips", "mine", 10, told.append, interval_s=0)
    eager.add_piece(0.5)
    assert len(told) == 2


def test_nothing_to_do_is_not_told():
    told = []
    Progress("clips", "mine", 0, told.append).finish()
    assert told == []


def test_words():
    update = ProgressUpdate("clips", "mine", 1, 1.5, 4, 1, 3.0)
    assert str(update) == "mine: clips 1 of 4 videos (38%), 0.5 videos/s, 1 failed, about 5 s left"
    assert str(ProgressUpdate("clips", "mine", 4, 4.0, 4, 0, 2.0)) == "mine: clips 4 of 4 videos, 2 videos/s"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (99, "99 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
