"""Queue: the SQS queues that tell of uploads into watched buckets."""

from __future__ import annotations

from pydantic import Field

from curation_assets.settings.base import Model


class QueueSettings(Model):
    """One queue that gets the notifications of buckets, from S3 itself, through SNS, or through EventBridge."""

    url: str = Field(
        pattern=r"^https?://[^\s?#@]+$",
        description="URL of the queue. The watched roots that an event lies below are found by its bucket and key.",
    )
    region: str | None = Field(None, description="None takes it from the URL, or else from the environment.")
    endpoint_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#@]+$",
        description="Of a server other than Amazon's; None takes AWS_ENDPOINT_URL_SQS or AWS_ENDPOINT_URL.",
    )
    max_messages_per_tick: int = Field(
        1000, ge=10, le=10_000, description="Most messages that a tick receives; what is left waits for the next."
    )
