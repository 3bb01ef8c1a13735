"""Outcomes: the reason codes that say how each item ended.

Every row carries one `outcome`. Its class decides how it is counted and whether it is tried again; the words live in the row's `detail`.
The code that decides writes the code; nothing else invents one.
"""

from __future__ import annotations

from enum import StrEnum


class OutcomeClass(StrEnum):
    """How an outcome is counted."""

    OK = "ok"  # done, complete
    PARTIAL = "partial"  # done with less than the file promised; listed as a failure, rows are usable
    WAITING = "waiting"  # not an error: looked at again at every run until it changes
    EXCLUDED = "excluded"  # a limit in the settings says no
    FAILED = "failed"  # permanent for this object, these settings and this code; --retry-failed tries again


class Outcome(StrEnum):
    """Reason codes, stable names that queries may rely on."""

    OK = "ok"
    TRUNCATED = "truncated"  # less media can be read than the container promises; the readable part was kept
    # waiting
    EMPTY_OBJECT = "empty_object"  # zero bytes: an upload that has not begun
    PARTIAL_UPLOAD = "partial_upload"  # a name such as x.mp4.part
    CHANGED = "changed"  # the object was replaced while it was being read
    VANISHED = "vanished"  # the object went away between listing and reading
    UNAVAILABLE = "unavailable"  # the store could not be reached after retries
    # excluded by a limit
    TOO_SMALL = "too_small"  # resolution below the limit
    TOO_LARGE = "too_large"  # bytes or resolution above the limit
    TOO_SHORT = "too_short"  # duration below the limit, or shorter than the shortest clip
    TOO_LONG = "too_long"
    BAD_ASPECT = "bad_aspect"
    # failed
    NOT_A_VIDEO = "not_a_video"  # no demuxer accepts the bytes
    NO_VIDEO_STREAM = "no_video_stream"  # audio or cover art only
    UNSUPPORTED = "unsupported"  # a codec or pixel format this build cannot decode
    CORRUPT = "corrupt"  # a demuxer accepts it, but nothing can be read
    TRUNCATED_REFUSED = "truncated_refused"  # truncated, and on_truncated is refuse
    NO_FRAMES = "no_frames"  # no frame of the span could be decoded
    TOO_FEW_FRAMES = "too_few_frames"  # fewer frames than asked for, and the policy refuses
    FORBIDDEN = "forbidden"  # the store denies reading
    TIMEOUT = "timeout"  # the deadline for one piece of work passed; the worker was ended
    CRASHED = "crashed"  # the decoder ended the worker process, twice
    OUT_OF_MEMORY = "out_of_memory"
    ENCODE_FAILED = "encode_failed"  # the encoder refused the frames, or its file does not hold them; no file was kept
    INVALID_VECTOR = "invalid_vector"  # the model gave NaN or a zero vector
    INVALID_SCORE = "invalid_score"  # the model gave NaN
    INTERNAL_ERROR = "internal_error"  # a bug of ours; detail holds the exception


_PARTIAL = {Outcome.TRUNCATED}
_WAITING = {Outcome.EMPTY_OBJECT, Outcome.PARTIAL_UPLOAD, Outcome.CHANGED, Outcome.VANISHED, Outcome.UNAVAILABLE}
_EXCLUDED = {Outcome.TOO_SMALL, Outcome.TOO_LARGE, Outcome.TOO_SHORT, Outcome.TOO_LONG, Outcome.BAD_ASPECT}


def outcome_class(outcome: str) -> OutcomeClass:
    """Return the class of an outcome code.

    Args:
        outcome: one of `Outcome`.

    Raises:
        ValueError: the code is unknown.
    """
    code = Outcome(outcome)
    if code is Outcome.OK:
        return OutcomeClass.OK
    if code in _PARTIAL:
        return OutcomeClass.PARTIAL
    if code in _WAITING:
        return OutcomeClass.WAITING
    if code in _EXCLUDED:
        return OutcomeClass.EXCLUDED
    return OutcomeClass.FAILED


def is_usable(outcome: str) -> bool:
    """Say whether rows with this outcome feed the next stage."""
    return outcome_class(outcome) in (OutcomeClass.OK, OutcomeClass.PARTIAL)


def codes(*classes: OutcomeClass) -> list[str]:
    """List the outcome codes of some classes, in the order of declaration."""
    return [code.value for code in Outcome if outcome_class(code) in classes]
